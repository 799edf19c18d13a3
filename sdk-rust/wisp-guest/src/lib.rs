//! The guest side of wisp: write a function that takes a [`Request`] and gives a [`Response`], name it in [`serve!`],
//! and build for `wasm32-wasip1` with `crate-type = ["cdylib"]`.
//!
//! ```
//! use wisp_guest::{Request, Response, serve};
//!
//! fn handle(request: Request) -> Response {
//!     let name = request.query_param("name").unwrap_or_else(|| "world".into());
//!     Response::text(format!("hello, {name}\n"))
//! }
//!
//! serve!(handle);
//! ```
//!
//! Models that the policy grants are opened by name with [`nn::Graph::load_by_name`]. What a guest prints to standard
//! error becomes the function's log; environment variables are those of its policy.
//!
//! [`http::fetch`] asks the hosts that the policy allows.
//!
//! A new instance answers each request, so nothing that a guest keeps in a `static` is there for the next one.
//!
//! Natively (for a handler's own unit tests) everything builds; [`nn`] then answers
//! [`NnError::UnsupportedOperation`](nn::NnError::UnsupportedOperation), and [`http::fetch`] that nothing is reachable.

#![deny(missing_docs)]

mod codec;
pub mod exchange;
pub mod http;
pub mod nn;
mod query;
#[doc(hidden)]
pub mod sys;

pub use exchange::{ExchangeError, Request, Response};
