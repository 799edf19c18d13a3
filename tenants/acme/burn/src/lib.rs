//! Spins for ever. Only its fuel or its deadline ends it: a demonstration of `fuel_exhausted`, and a neighbour to test
//! fairness with.

use std::hint::black_box;

use wisp_guest::{Request, Response, serve};

fn burn(_request: Request) -> Response {
    let mut turns = 0_u64;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

serve!(burn);
