//! JPEG, baseline and progressive, grey, YCbCr or CMYK.

use std::io::Cursor;

use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

use crate::image::{Image, Layout, SIDE_MAX, check_dimensions};

const END_OF_IMAGE: [u8; 2] = [0xff, 0xd9];

/// The picture of a whole file. The error says what is wrong with it.
pub fn read(bytes: &[u8]) -> Result<Image<'static>, String> {
    // The decoder misses it in the last rows.
    if !bytes.windows(2).rev().any(|marker| marker == END_OF_IMAGE) {
        return Err("not a JPEG image, or one cut short".into());
    }
    // Strict: a damaged image is refused, not made up for with grey.
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(SIDE_MAX as usize)
        .set_max_height(SIDE_MAX as usize)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(Cursor::new(bytes), options);
    decoder
        .decode_headers()
        .map_err(|_| "not a JPEG image, or larger than is taken")?;
    let (width, height) = decoder.dimensions().ok_or("not a JPEG image")?;
    let (width, height) = (width as u32, height as u32);
    check_dimensions(width, height)?;
    let samples = decoder.decode().map_err(|_| "the JPEG image is damaged")?;
    Image::new(width, height, Layout::packed(width as usize, 3), samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 40 by 24: (200, 40, 80) on the left half, (20, 160, 60) on the right.
    const BASELINE: &[u8] = include_bytes!("../../samples/baseline.jpg");
    const PROGRESSIVE: &[u8] = include_bytes!("../../samples/progressive.jpg");
    const CMYK: &[u8] = include_bytes!("../../samples/cmyk.jpg");
    /// The same in grey: 93 and 107.
    const GREY: &[u8] = include_bytes!("../../samples/grey.jpg");

    fn assert_shows(file: &[u8], left: [u8; 3], right: [u8; 3]) {
        let image = read(file).unwrap();
        assert_eq!((image.width(), image.height()), (40, 24));
        for (x, expected) in [(4, left), (36, right)] {
            let pixel = image
                .layout()
                .rgb
                .map(|offset| image.row(12)[3 * x + offset]);
            assert!(
                pixel
                    .iter()
                    .zip(expected)
                    .all(|(&is, should)| is.abs_diff(should) <= 4),
                "{pixel:?}"
            );
        }
    }

    #[test]
    fn baseline_progressive_and_cmyk_show_the_same() {
        for file in [BASELINE, PROGRESSIVE, CMYK] {
            assert_shows(file, [200, 40, 80], [20, 160, 60]);
        }
    }

    #[test]
    fn grey_is_all_three_colours() {
        assert_shows(GREY, [92; 3], [107; 3]);
    }

    #[test]
    fn a_file_cut_anywhere_is_refused() {
        for whole in [BASELINE, PROGRESSIVE, CMYK, GREY] {
            for length in 0..whole.len() {
                assert!(
                    read(&whole[..length]).is_err(),
                    "{length} of {}",
                    whole.len()
                );
            }
        }
    }

    #[test]
    fn a_file_with_any_byte_changed_is_read_or_refused() {
        for whole in [BASELINE, PROGRESSIVE, CMYK, GREY] {
            for at in 0..whole.len() {
                for change in [0x01, 0x80, 0xff] {
                    let mut changed = whole.to_vec();
                    changed[at] ^= change;
                    let _ = read(&changed);
                }
            }
        }
    }

    #[test]
    fn an_image_beyond_the_bounds_is_refused_by_its_header() {
        let frame = BASELINE
            .windows(2)
            .position(|marker| marker == [0xff, 0xc0])
            .unwrap();
        for (height, width) in [
            (4096_u16, 4096_u16),
            (8193, 1),
            (65535, 65535),
            (0, 40),
            (24, 0),
        ] {
            let mut changed = BASELINE.to_vec();
            changed[frame + 5..frame + 7].copy_from_slice(&height.to_be_bytes());
            changed[frame + 7..frame + 9].copy_from_slice(&width.to_be_bytes());
            assert!(read(&changed).is_err(), "{width} by {height}");
        }
    }
}
