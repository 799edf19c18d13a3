//! Picture files, decoded within the bounds of [`crate::image`].

mod bmp;
mod jpeg;
mod png;

pub use bmp::read as bmp;
pub use jpeg::read as jpeg;
pub use png::read as png;
