//! How long the preprocessing takes: 640 by 480 RGBA to a normalised f32[1,3,224,224], milliseconds each, on stdout.
//!
//! The same program natively and in WebAssembly; `tests/bench/bench_preprocess.py` builds and compares both.

#[allow(dead_code)]
#[path = "../src/image.rs"]
mod image;
#[allow(dead_code)]
#[path = "../src/tensor.rs"]
mod tensor;

use std::hint::black_box;
use std::time::Instant;

const ROUNDS: u32 = 200;

fn main() {
    let samples: Vec<u8> = (0..640 * 480 * 4)
        .map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let image = image::Image::new(640, 480, image::Layout::packed(640, 4), samples)
        .expect("within the bounds");
    let mut taken = Box::new([0.0; tensor::LENGTH]);
    for _ in 0..ROUNDS / 10 {
        tensor::fill(black_box(&mut taken), black_box(&image));
    }
    let started = Instant::now();
    for _ in 0..ROUNDS {
        tensor::fill(black_box(&mut taken), black_box(&image));
    }
    println!(
        "{:.4}",
        started.elapsed().as_secs_f64() * 1000.0 / f64::from(ROUNDS)
    );
}
