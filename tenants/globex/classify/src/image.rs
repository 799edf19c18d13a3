//! Pixels as they came, and how to find the red, green and blue of each.

use std::borrow::Cow;

/// The widest and the highest image that is taken.
pub const SIDE_MAX: u32 = 8192;
/// The most pixels that are decoded: Full HD and a little. A JPEG takes about 400 fuel for each, a dense one twice that,
/// and the policy's 2G are to last.
pub const PIXELS_MAX: u64 = 2 << 20;

/// How the samples of an image lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// From one row's start to the next one's.
    pub row_bytes: usize,
    /// From one pixel's start to the next one's.
    pub pixel_bytes: usize,
    /// Where red, green and blue lie in a pixel; the same place thrice in a grey one.
    pub rgb: [usize; 3],
    /// Whether the first row in memory is the lowest.
    pub bottom_up: bool,
}

impl Layout {
    /// Rows without gaps, from the top, of pixels of so many bytes: grey first, or red, green and blue.
    pub fn packed(width: usize, pixel_bytes: usize) -> Self {
        let rgb = if pixel_bytes < 3 {
            [0, 0, 0]
        } else {
            [0, 1, 2]
        };
        Self {
            row_bytes: width * pixel_bytes,
            pixel_bytes,
            rgb,
            bottom_up: false,
        }
    }
}

/// An image of at least one pixel whose samples are all there. Opacity, where there is any, is not looked at.
#[derive(Debug, Clone, PartialEq)]
pub struct Image<'a> {
    width: usize,
    height: usize,
    layout: Layout,
    samples: Cow<'a, [u8]>,
}

impl<'a> Image<'a> {
    /// The error says which dimension is out of bounds, or that samples are missing.
    pub fn new(
        width: u32,
        height: u32,
        layout: Layout,
        samples: impl Into<Cow<'a, [u8]>>,
    ) -> Result<Self, String> {
        let (width, height) = check_dimensions(width, height)?;
        let samples = samples.into();
        let fits = width * layout.pixel_bytes <= layout.row_bytes
            && layout.rgb.iter().all(|&offset| offset < layout.pixel_bytes)
            && layout
                .row_bytes
                .checked_mul(height)
                .is_some_and(|needed| needed <= samples.len());
        if fits {
            Ok(Self {
                width,
                height,
                layout,
                samples,
            })
        } else {
            Err("the image is cut short".into())
        }
    }

    /// In pixels; at least 1.
    pub fn width(&self) -> usize {
        self.width
    }

    /// In pixels; at least 1.
    pub fn height(&self) -> usize {
        self.height
    }

    /// How the pixels of a row lie.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// One row, counted from the top.
    pub fn row(&self, y: usize) -> &[u8] {
        let at = if self.layout.bottom_up {
            self.height - 1 - y
        } else {
            y
        };
        &self.samples[at * self.layout.row_bytes..][..self.width * self.layout.pixel_bytes]
    }
}

/// Bounds both, before anything is allocated for them.
pub fn check_dimensions(width: u32, height: u32) -> Result<(usize, usize), String> {
    if width == 0 || height == 0 {
        return Err(format!(
            "the image is {width} by {height}: it has no pixels"
        ));
    }
    if width > SIDE_MAX || height > SIDE_MAX || u64::from(width) * u64::from(height) > PIXELS_MAX {
        return Err(format!(
            "the image is {width} by {height}; at most {SIDE_MAX} on a side and {PIXELS_MAX} pixels are taken"
        ));
    }
    Ok((width as usize, height as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dimensions_have_bounds_on_each_side_and_on_their_product() {
        assert_eq!(check_dimensions(2048, 1024), Ok((2048, 1024)));
        assert_eq!(check_dimensions(SIDE_MAX, 256), Ok((8192, 256)));
        for (width, height) in [
            (0, 1),
            (1, 0),
            (SIDE_MAX + 1, 1),
            (1, SIDE_MAX + 1),
            (2048, 1025),
            (u32::MAX, u32::MAX),
        ] {
            assert!(
                check_dimensions(width, height).is_err(),
                "{width} by {height}"
            );
        }
    }

    #[test]
    fn samples_must_cover_every_row() {
        let layout = Layout {
            row_bytes: 8,
            pixel_bytes: 3,
            rgb: [2, 1, 0],
            bottom_up: true,
        };
        assert!(Image::new(2, 2, layout, vec![0; 15]).is_err());
        assert!(
            Image::new(3, 1, layout, vec![0; 16]).is_err(),
            "a row is shorter than its pixels"
        );
        assert!(
            Image::new(
                2,
                1,
                Layout {
                    rgb: [3, 1, 0],
                    ..layout
                },
                vec![0; 16]
            )
            .is_err()
        );
        assert!(Image::new(2, 2, layout, vec![0; 16]).is_ok());
    }

    #[test]
    fn rows_are_counted_from_the_top() {
        let layout = Layout {
            row_bytes: 4,
            pixel_bytes: 1,
            rgb: [0; 3],
            bottom_up: true,
        };
        let image = Image::new(3, 2, layout, vec![1, 2, 3, 0, 4, 5, 6, 0]).unwrap();
        assert_eq!(
            (image.row(0), image.row(1)),
            (&[4, 5, 6][..], &[1, 2, 3][..])
        );
    }
}
