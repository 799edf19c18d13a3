//! Windows bitmaps without compression: 24 or 32 bits a pixel, or 8 with a palette, in either direction.
//!
//! Sources: BITMAPFILEHEADER, BITMAPINFOHEADER and BITMAPV5HEADER of the Windows GDI reference.

use crate::image::{Image, Layout, check_dimensions};

const FILE_HEADER: usize = 14;
/// BITMAPINFOHEADER; its successors begin with the same fields.
const INFO_HEADER: u32 = 40;
const BI_RGB: u32 = 0;
const BI_BITFIELDS: u32 = 3;
/// Red, green and blue of BI_BITFIELDS where a pixel lies in memory as BI_RGB has it: blue, green, red.
const USUAL_MASKS: [u32; 3] = [0x00ff_0000, 0x0000_ff00, 0x0000_00ff];
const BGR: [usize; 3] = [2, 1, 0];

/// The picture of a whole file, its pixels where they are. The error says what is wrong with it.
pub fn read(bytes: &[u8]) -> Result<Image<'_>, String> {
    let header = Header::read(bytes).ok_or("not a BMP image")?;
    let height = header.height.unsigned_abs();
    let width = u32::try_from(header.width).map_err(|_| "the BMP image has a negative width")?;
    let (columns, _) = check_dimensions(width, height)?;
    let pixels = bytes
        .get(header.pixels_at as usize..)
        .ok_or("the image is cut short")?;
    let pixel_bytes = usize::from(header.bits) / 8;
    // Rows are padded to four bytes.
    let row_bytes = (columns * pixel_bytes).next_multiple_of(4);
    let layout = Layout {
        row_bytes,
        pixel_bytes,
        rgb: BGR,
        bottom_up: header.height > 0,
    };
    match (header.bits, header.compression) {
        (24 | 32, BI_RGB) => Image::new(width, height, layout, pixels),
        (32, BI_BITFIELDS) if header.masks(bytes) == Some(USUAL_MASKS) => {
            Image::new(width, height, layout, pixels)
        }
        (8, BI_RGB) => {
            let indices = Image::new(
                width,
                height,
                Layout {
                    rgb: [0; 3],
                    ..layout
                },
                pixels,
            )?;
            let samples = header.look_up(bytes, &indices)?;
            Image::new(width, height, Layout::packed(columns, 3), samples)
        }
        _ => Err(
            "this kind of BMP is not read: it must be uncompressed, of 8, 24 or 32 bits a pixel"
                .into(),
        ),
    }
}

struct Header {
    pixels_at: u32,
    size: u32,
    width: i32,
    /// Negative where the first row is the top one.
    height: i32,
    bits: u16,
    compression: u32,
    /// Of the palette; 0 means as many as the bits can say.
    colors: u32,
}

impl Header {
    fn read(bytes: &[u8]) -> Option<Self> {
        let size = word(bytes, FILE_HEADER)?;
        if !bytes.starts_with(b"BM") || size < INFO_HEADER {
            return None;
        }
        Some(Self {
            pixels_at: word(bytes, 10)?,
            size,
            width: word(bytes, 18)? as i32,
            height: word(bytes, 22)? as i32,
            bits: (word(bytes, 26)? >> 16) as u16,
            compression: word(bytes, 30)?,
            colors: word(bytes, 46)?,
        })
    }

    /// They follow a BITMAPINFOHEADER and are fields of its successors, in the same place.
    fn masks(&self, bytes: &[u8]) -> Option<[u32; 3]> {
        Some([word(bytes, 54)?, word(bytes, 58)?, word(bytes, 62)?])
    }

    /// The palette follows the header: blue, green, red and a byte to spare for each colour.
    fn look_up(&self, bytes: &[u8], indices: &Image) -> Result<Vec<u8>, String> {
        let colors = if self.colors == 0 {
            256
        } else {
            self.colors.min(256) as usize
        };
        let start = (self.size as usize)
            .checked_add(FILE_HEADER)
            .ok_or("the image is cut short")?;
        let palette = bytes
            .get(start..)
            .and_then(|rest| rest.get(..4 * colors))
            .ok_or("the image is cut short")?;
        let mut samples = Vec::with_capacity(3 * indices.width() * indices.height());
        for y in 0..indices.height() {
            for &index in indices.row(y) {
                // An index beyond the palette is black, as elsewhere.
                let color = palette.get(4 * usize::from(index)..).unwrap_or(&[]);
                samples.extend(BGR.map(|offset| color.get(offset).copied().unwrap_or(0)));
            }
        }
        Ok(samples)
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .copied()
        .map(u32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with a BITMAPINFOHEADER, `between` (masks or a palette), and the pixels.
    fn bmp(
        width: i32,
        height: i32,
        bits: u16,
        compression: u32,
        between: &[u8],
        pixels: &[u8],
    ) -> Vec<u8> {
        let pixels_at = 54 + between.len() as u32;
        let mut bytes = b"BM".to_vec();
        bytes.extend([0; 8]);
        bytes.extend(pixels_at.to_le_bytes());
        bytes.extend(INFO_HEADER.to_le_bytes());
        bytes.extend(width.to_le_bytes());
        bytes.extend(height.to_le_bytes());
        bytes.extend(1_u16.to_le_bytes());
        bytes.extend(bits.to_le_bytes());
        bytes.extend(compression.to_le_bytes());
        bytes.extend([0; 12]);
        bytes.extend((between.len() as u32 / 4).to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(between);
        bytes.extend(pixels);
        bytes
    }

    fn rgb(image: &Image, x: usize, y: usize) -> [u8; 3] {
        image
            .layout()
            .rgb
            .map(|offset| image.row(y)[x * image.layout().pixel_bytes + offset])
    }

    #[test]
    fn rows_are_padded_and_start_at_the_bottom() {
        let bytes = bmp(1, 2, 24, BI_RGB, &[], &[3, 2, 1, 0, 6, 5, 4, 0]);
        let image = read(&bytes).unwrap();
        assert_eq!(
            (rgb(&image, 0, 0), rgb(&image, 0, 1)),
            ([4, 5, 6], [1, 2, 3])
        );
        let bytes = bmp(1, -2, 24, BI_RGB, &[], &[3, 2, 1, 0, 6, 5, 4, 0]);
        assert_eq!(rgb(&read(&bytes).unwrap(), 0, 0), [1, 2, 3]);
    }

    #[test]
    fn thirty_two_bits_with_and_without_the_usual_masks() {
        assert_eq!(
            rgb(
                &read(&bmp(1, 1, 32, BI_RGB, &[], &[3, 2, 1, 0])).unwrap(),
                0,
                0
            ),
            [1, 2, 3]
        );
        let masks: Vec<u8> = USUAL_MASKS.into_iter().flat_map(u32::to_le_bytes).collect();
        assert_eq!(
            rgb(
                &read(&bmp(1, 1, 32, BI_BITFIELDS, &masks, &[3, 2, 1, 0])).unwrap(),
                0,
                0
            ),
            [1, 2, 3]
        );
        assert!(read(&bmp(1, 1, 32, BI_BITFIELDS, &[0; 12], &[3, 2, 1, 0])).is_err());
    }

    #[test]
    fn eight_bits_are_looked_up() {
        let bytes = bmp(3, 1, 8, BI_RGB, &[0, 0, 0, 0, 30, 20, 10, 0], &[1, 0, 2, 0]);
        let image = read(&bytes).unwrap();
        assert_eq!(
            [0, 1, 2].map(|x| rgb(&image, x, 0)),
            [[10, 20, 30], [0, 0, 0], [0, 0, 0]]
        );
    }

    #[test]
    fn a_file_cut_anywhere_is_refused() {
        for whole in [
            bmp(3, 3, 24, BI_RGB, &[], &[0; 36]),
            bmp(3, 3, 8, BI_RGB, &[0; 8], &[0; 12]),
        ] {
            assert!(read(&whole).is_ok());
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
    fn hostile_headers_are_refused() {
        for (width, height) in [
            (0, 1),
            (1, 0),
            (-1, 1),
            (i32::MAX, i32::MAX),
            (1, i32::MIN),
            (8193, 1),
            (8192, 8192),
        ] {
            assert!(
                read(&bmp(width, height, 24, BI_RGB, &[], &[0; 64])).is_err(),
                "{width} by {height}"
            );
        }
        for (bits, compression) in [
            (1, BI_RGB),
            (4, BI_RGB),
            (16, BI_RGB),
            (8, 1),
            (24, 4),
            (0, BI_RGB),
            (65535, 0),
        ] {
            assert!(
                read(&bmp(1, 1, bits, compression, &[], &[0; 64])).is_err(),
                "{bits} bits, {compression}"
            );
        }
        let mut far = bmp(1, 1, 24, BI_RGB, &[], &[0; 4]);
        far[10..14].copy_from_slice(&[0xff; 4]);
        assert!(read(&far).is_err());
    }
}
