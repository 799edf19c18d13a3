//! An image as MobileNet wants it: f32[1,3,224,224], each channel normalised by ImageNet's mean and deviation.

use crate::image::Image;

/// The model's input is this many pixels wide and high.
pub const SIDE: usize = 224;
/// Of the input, in order: batch, channel, row, column.
pub const SHAPE: [u32; 4] = [1, 3, SIDE as u32, SIDE as u32];

const PLANE: usize = SIDE * SIDE;
/// Of red, green and blue from 0 to 1, over ImageNet's training images.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const DEVIATION: [f32; 3] = [0.229, 0.224, 0.225];

/// What each value of a sample becomes, for each channel: 768 divisions at build time instead of 301,056 a request.
static NORMALISED: [[f32; 256]; 3] = normalised();

const fn normalised() -> [[f32; 256]; 3] {
    let mut table = [[0.0; 256]; 3];
    let mut at = 0;
    while at < 3 * 256 {
        let (channel, sample) = (at / 256, at % 256);
        table[channel][sample] = (sample as f32 / 255.0 - MEAN[channel]) / DEVIATION[channel];
        at += 1;
    }
    table
}

/// How many values the model takes.
pub const LENGTH: usize = 3 * PLANE;
/// So many pixels are taken in one step of the loop, whose own cost is counted in fuel and in time.
const STEP: usize = 4;

/// The whole image, scaled to [`SIDE`] by [`SIDE`] without regard to its proportions. The pixel at (x, y) is the one at
/// (x × width ÷ 224, y × height ÷ 224) of the image, rounded down (nearest neighbour).
pub fn fill(tensor: &mut [f32; LENGTH], image: &Image) {
    match image.layout().pixel_bytes {
        1 => take::<1>(tensor, image),
        2 => take::<2>(tensor, image),
        3 => take::<3>(tensor, image),
        _ => take::<4>(tensor, image),
    }
}

/// `BYTES`: from one pixel's start to the next one's, or the first four of more.
fn take<const BYTES: usize>(tensor: &mut [f32; LENGTH], image: &Image) {
    let [r, g, b] = image.layout().rgb.map(|offset| offset.min(BYTES - 1));
    let columns: [usize; SIDE] =
        std::array::from_fn(|x| x * image.width() / SIDE * image.layout().pixel_bytes);
    let (red, rest) = tensor.split_at_mut(PLANE);
    let (green, blue) = rest.split_at_mut(PLANE);
    let planes = (red.chunks_exact_mut(SIDE))
        .zip(green.chunks_exact_mut(SIDE))
        .zip(blue.chunks_exact_mut(SIDE));
    for (y, ((red, green), blue)) in planes.enumerate() {
        let row = image.row(y * image.height() / SIDE);
        let steps = (red.chunks_exact_mut(STEP))
            .zip(green.chunks_exact_mut(STEP))
            .zip(blue.chunks_exact_mut(STEP));
        for (columns, ((red, green), blue)) in columns.chunks_exact(STEP).zip(steps) {
            // Written out: the compiler, told to keep the module small, would leave a loop.
            macro_rules! put {
                ($($at:literal)*) => {$(
                    let pixel: &[u8; BYTES] = row[columns[$at]..].first_chunk().expect("a whole pixel");
                    red[$at] = NORMALISED[0][usize::from(pixel[r])];
                    green[$at] = NORMALISED[1][usize::from(pixel[g])];
                    blue[$at] = NORMALISED[2][usize::from(pixel[b])];
                )*};
            }
            put!(0 1 2 3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Layout;

    fn tensor(image: &Image) -> Box<[f32; LENGTH]> {
        let mut tensor = Box::new([f32::NAN; LENGTH]);
        fill(&mut tensor, image);
        tensor
    }

    fn expected(channel: usize, sample: u8) -> f32 {
        (f32::from(sample) / 255.0 - MEAN[channel]) / DEVIATION[channel]
    }

    #[test]
    fn channels_come_apart_in_their_order_and_are_normalised() {
        let image = Image::new(1, 1, Layout::packed(1, 4), vec![255, 128, 0, 7]).unwrap();
        let tensor = tensor(&image);
        assert_eq!(tensor.len(), 3 * 224 * 224);
        for (channel, sample) in [255, 128, 0].into_iter().enumerate() {
            let plane = &tensor[channel * PLANE..][..PLANE];
            assert!(
                plane
                    .iter()
                    .all(|&value| value == expected(channel, sample))
            );
        }
    }

    #[test]
    fn an_image_of_the_right_size_is_taken_pixel_by_pixel() {
        let samples: Vec<u8> = (0..PLANE).map(|at| (at % 251) as u8).collect();
        let tensor =
            tensor(&Image::new(224, 224, Layout::packed(224, 1), samples.clone()).unwrap());
        assert!((0..PLANE).all(|at| tensor[2 * PLANE + at] == expected(2, samples[at])));
    }

    #[test]
    fn other_sizes_take_the_neighbour_to_the_upper_left() {
        for (width, height) in [
            (1, 1),
            (3, 500),
            (225, 223),
            (448, 448),
            (640, 480),
            (1000, 7),
        ] {
            let samples: Vec<u8> = (0..width * height)
                .flat_map(|at| [at as u8, (at >> 8) as u8, 9])
                .collect();
            let image = Image::new(
                width as u32,
                height as u32,
                Layout::packed(width, 3),
                &samples[..],
            )
            .unwrap();
            let tensor = tensor(&image);
            for at in (0..PLANE).step_by(97) {
                let (x, y) = (at % SIDE * width / SIDE, at / SIDE * height / SIDE);
                let source = 3 * (y * width + x);
                assert_eq!(
                    tensor[at],
                    expected(0, samples[source]),
                    "{width} by {height}, {at}"
                );
                assert_eq!(tensor[PLANE + at], expected(1, samples[source + 1]));
            }
        }
    }
}
