//! PNG of any colour type and depth, interlaced or not; of an animation, its first picture.

use std::io::Cursor;

use png::{Decoder, Limits, Transformations};

use crate::image::{Image, Layout, check_dimensions};

/// What the decoder may allocate for rows and chunks.
const DECODER_BYTES: usize = 4 << 20;

/// The picture of a whole file. The error says what is wrong with it.
pub fn read(bytes: &[u8]) -> Result<Image<'static>, String> {
    let mut decoder = Decoder::new_with_limits(
        Cursor::new(bytes),
        Limits {
            bytes: DECODER_BYTES,
        },
    );
    decoder.set_transformations(Transformations::normalize_to_color8());
    let header = decoder.read_header_info().map_err(|_| "not a PNG image")?;
    let (width, height) = (header.width, header.height);
    check_dimensions(width, height)?;
    let mut reader = decoder.read_info().map_err(damaged)?;
    let mut samples = vec![
        0;
        reader
            .output_buffer_size()
            .ok_or("the image is too large")?
    ];
    let frame = reader.next_frame(&mut samples).map_err(damaged)?;
    reader.finish().map_err(damaged)?;
    let layout = Layout::packed(frame.width as usize, frame.color_type.samples());
    Image::new(
        frame.width,
        frame.height,
        Layout {
            row_bytes: frame.line_size,
            ..layout
        },
        samples,
    )
}

fn damaged(_: png::DecodingError) -> String {
    "the PNG image is damaged".into()
}

#[cfg(test)]
mod tests {
    use png::{BitDepth, ColorType, Encoder};

    use super::*;

    fn encoded(
        width: u32,
        height: u32,
        color: ColorType,
        depth: BitDepth,
        samples: &[u8],
    ) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes, width, height);
        encoder.set_color(color);
        encoder.set_depth(depth);
        if color == ColorType::Indexed {
            encoder.set_palette(vec![0, 0, 0, 10, 20, 30]);
        }
        encoder
            .write_header()
            .unwrap()
            .write_image_data(samples)
            .unwrap();
        bytes
    }

    fn first_pixel(bytes: &[u8]) -> [u8; 3] {
        let image = read(bytes).unwrap();
        image.layout().rgb.map(|offset| image.row(0)[offset])
    }

    #[test]
    fn every_colour_type_has_its_red_green_and_blue() {
        use BitDepth::{Eight, One, Sixteen};
        assert_eq!(
            first_pixel(&encoded(1, 1, ColorType::Rgb, Eight, &[1, 2, 3])),
            [1, 2, 3]
        );
        assert_eq!(
            first_pixel(&encoded(1, 1, ColorType::Rgba, Eight, &[1, 2, 3, 0])),
            [1, 2, 3]
        );
        assert_eq!(
            first_pixel(&encoded(1, 1, ColorType::Grayscale, Eight, &[9])),
            [9, 9, 9]
        );
        assert_eq!(
            first_pixel(&encoded(1, 1, ColorType::GrayscaleAlpha, Eight, &[9, 1])),
            [9, 9, 9]
        );
        assert_eq!(
            first_pixel(&encoded(1, 1, ColorType::Indexed, One, &[0x80])),
            [10, 20, 30]
        );
        assert_eq!(
            first_pixel(&encoded(1, 1, ColorType::Grayscale, Sixteen, &[0xff, 0xff])),
            [255, 255, 255]
        );
    }

    #[test]
    fn a_file_cut_anywhere_is_refused() {
        let samples: Vec<u8> = (0..40 * 40 * 3).map(|at| (at * 7 % 256) as u8).collect();
        let whole = encoded(40, 40, ColorType::Rgb, BitDepth::Eight, &samples);
        assert!(read(&whole).is_ok());
        for length in 0..whole.len() {
            assert!(
                read(&whole[..length]).is_err(),
                "{length} of {}",
                whole.len()
            );
        }
    }

    #[test]
    fn an_image_beyond_the_bounds_is_refused_by_its_header() {
        let wide = encoded(8193, 1, ColorType::Grayscale, BitDepth::One, &[0; 1025]);
        assert!(read(&wide).unwrap_err().contains("8193 by 1"));
        // A header that promises 4 Gi pixels, and little else.
        let mut huge = encoded(1, 1, ColorType::Grayscale, BitDepth::Eight, &[0]);
        huge[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
        assert!(read(&huge).is_err());
    }
}
