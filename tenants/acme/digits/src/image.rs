//! An image as the digits model wants it: PNG to grey, averaged down to 8 by 8.

use png::{ColorType, Decoder, Limits, Transformations};

/// The model's input is this many pixels wide and high.
pub const SIDE: usize = 8;
/// The widest and highest image that is decoded: 4 MiB as RGBA.
const DIMENSION_MAX: u32 = 1024;
/// What the decoder may allocate for rows and chunks.
const DECODER_BYTES: usize = 2 << 20;

/// Brightness from 0 (dark) to 1, row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    width: usize,
    height: usize,
    pixels: Vec<f32>,
}

impl Image {
    /// Decodes a PNG of any colour type; transparency counts as dark. The error says what is wrong with the image.
    pub fn from_png(bytes: &[u8]) -> Result<Self, String> {
        let mut decoder = Decoder::new_with_limits(
            std::io::Cursor::new(bytes),
            Limits {
                bytes: DECODER_BYTES,
            },
        );
        decoder.set_transformations(Transformations::normalize_to_color8());
        let header = decoder.read_header_info().map_err(|_| "not a PNG image")?;
        let (width, height) = (header.width, header.height);
        if width > DIMENSION_MAX || height > DIMENSION_MAX {
            return Err(format!(
                "the image is {width} by {height}, more than {DIMENSION_MAX} by {DIMENSION_MAX}"
            ));
        }
        let mut reader = decoder
            .read_info()
            .map_err(|_| "the PNG image is damaged")?;
        let mut samples = vec![
            0;
            reader
                .output_buffer_size()
                .ok_or("the image is too large")?
        ];
        let frame = reader
            .next_frame(&mut samples)
            .map_err(|_| "the PNG image is damaged")?;
        let pixels = samples[..frame.buffer_size()]
            .chunks_exact(frame.color_type.samples())
            .map(|pixel| brightness(pixel, frame.color_type))
            .collect();
        Ok(Self {
            width: frame.width as usize,
            height: frame.height as usize,
            pixels,
        })
    }

    /// Each output pixel is the mean of the part of the image that it covers, with fractions of pixels.
    pub fn shrink(&self) -> [f32; SIDE * SIDE] {
        let mut output = [0.0; SIDE * SIDE];
        for (at, mean) in output.iter_mut().enumerate() {
            let (row, column) = (at / SIDE, at % SIDE);
            let (mut sum, mut area) = (0.0, 0.0);
            for (y, high) in cover(row, self.height) {
                for (x, wide) in cover(column, self.width) {
                    sum += self.pixels[y * self.width + x] * high * wide;
                    area += high * wide;
                }
            }
            *mean = sum / area;
        }
        output
    }
}

/// The source positions that one of `SIDE` equal parts of `length` covers, each with how much of it is covered.
fn cover(part: usize, length: usize) -> impl Iterator<Item = (usize, f32)> {
    let step = length as f32 / SIDE as f32;
    let (start, end) = (part as f32 * step, (part + 1) as f32 * step);
    let last = (end.ceil() as usize).min(length);
    (start as usize..last).map(move |at| (at, end.min(at as f32 + 1.0) - start.max(at as f32)))
}

/// Luma (ITU-R BT.601) times opacity.
fn brightness(pixel: &[u8], color: ColorType) -> f32 {
    let [red, green, blue, alpha] = match (color, pixel) {
        (ColorType::GrayscaleAlpha, &[grey, alpha]) => [grey, grey, grey, alpha],
        (ColorType::Rgb, &[red, green, blue]) => [red, green, blue, 255],
        (ColorType::Rgba, &[red, green, blue, alpha]) => [red, green, blue, alpha],
        (_, pixel) => [pixel[0], pixel[0], pixel[0], 255],
    }
    .map(|sample| f32::from(sample) / 255.0);
    (0.299 * red + 0.587 * green + 0.114 * blue) * alpha
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png(width: u32, height: u32, color: ColorType, samples: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, width, height);
        encoder.set_color(color);
        encoder
            .write_header()
            .unwrap()
            .write_image_data(samples)
            .unwrap();
        bytes
    }

    fn close(left: &[f32], right: &[f32]) -> bool {
        left.len() == right.len() && left.iter().zip(right).all(|(a, b)| (a - b).abs() < 1e-5)
    }

    #[test]
    fn eight_by_eight_grey_is_taken_as_it_is() {
        let samples: Vec<u8> = (0..64).map(|at| at * 4).collect();
        let expected: Vec<f32> = samples
            .iter()
            .map(|&sample| f32::from(sample) / 255.0)
            .collect();
        assert!(close(
            &Image::from_png(&png(8, 8, ColorType::Grayscale, &samples))
                .unwrap()
                .shrink(),
            &expected
        ));
    }

    #[test]
    fn a_larger_image_is_averaged() {
        let samples: Vec<u8> = (0..16 * 16)
            .map(|at| if at % 2 == 0 { 255 } else { 0 })
            .collect();
        assert!(close(
            &Image::from_png(&png(16, 16, ColorType::Grayscale, &samples))
                .unwrap()
                .shrink(),
            &[0.5; 64]
        ));
    }

    #[test]
    fn sizes_that_do_not_divide_keep_the_mean() {
        for (width, height) in [(1, 1), (3, 5), (11, 7), (28, 28), (100, 9)] {
            let samples = vec![51; (width * height) as usize];
            let image =
                Image::from_png(&png(width, height, ColorType::Grayscale, &samples)).unwrap();
            assert!(close(&image.shrink(), &[0.2; 64]), "{width} by {height}");
        }
    }

    #[test]
    fn colours_and_transparency() {
        let mean =
            |color, pixel: &[u8]| Image::from_png(&png(1, 1, color, pixel)).unwrap().pixels[0];
        assert!(close(&[mean(ColorType::Rgb, &[255, 255, 255])], &[1.0]));
        assert!(close(&[mean(ColorType::Rgb, &[0, 255, 0])], &[0.587]));
        assert!(close(&[mean(ColorType::Rgba, &[255, 255, 255, 0])], &[0.0]));
        assert!(close(
            &[mean(ColorType::GrayscaleAlpha, &[255, 51])],
            &[0.2]
        ));
    }

    #[test]
    fn a_palette_and_sixteen_bits_are_expanded() {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, 1, 1);
        encoder.set_color(ColorType::Indexed);
        encoder.set_palette(vec![0, 0, 0, 255, 255, 255]);
        encoder
            .write_header()
            .unwrap()
            .write_image_data(&[1])
            .unwrap();
        assert!(close(&Image::from_png(&bytes).unwrap().pixels, &[1.0]));

        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, 1, 1);
        encoder.set_color(ColorType::Grayscale);
        encoder.set_depth(png::BitDepth::Sixteen);
        encoder
            .write_header()
            .unwrap()
            .write_image_data(&[0xff, 0xff])
            .unwrap();
        assert!(close(&Image::from_png(&bytes).unwrap().pixels, &[1.0]));
    }

    #[test]
    fn hostile_images_are_refused() {
        let whole = png(8, 8, ColorType::Grayscale, &[0; 64]);
        assert!(Image::from_png(&[]).is_err());
        assert!(Image::from_png(&whole[..whole.len() / 2]).is_err());
        let wide = png(
            DIMENSION_MAX + 1,
            1,
            ColorType::Grayscale,
            &[0; DIMENSION_MAX as usize + 1],
        );
        assert!(Image::from_png(&wide).unwrap_err().contains("1025 by 1"));
    }
}
