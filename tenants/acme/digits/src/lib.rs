//! Reads a handwritten digit: a PNG in the body, `{"label": 7, "confidence": 0.98}` out.
//!
//! Any size up to 1024 by 1024 and any colour type; the digit is light on dark, as in the samples. The image is
//! averaged down to 8 by 8, and the model `digits` of the policy gives ten logits.

mod image;

use image::{Image, SIDE};
use wisp_guest::nn::{Graph, NnError};
use wisp_guest::{Request, Response, serve};

fn digits(request: Request) -> Result<Response, Response> {
    if request.method() != "POST" {
        return Err(refusal(405, "POST a PNG image").with_header("allow", "POST"));
    }
    let image = Image::from_png(request.body()).map_err(|reason| refusal(400, &reason))?;
    let probabilities = softmax(&logits(&image.shrink())?);
    let (label, confidence) = best(&probabilities);
    // In ten-thousandths: formatting floating-point numbers would be a tenth of this module.
    let parts = (confidence * 10_000.0).round() as u32;
    let (whole, fraction) = (parts / 10_000, parts % 10_000);
    Ok(Response::json(format!(
        "{{\"label\": {label}, \"confidence\": {whole}.{fraction:04}}}\n"
    )))
}

fn logits(pixels: &[f32; SIDE * SIDE]) -> Result<Vec<f32>, NnError> {
    let mut context = Graph::load_by_name("digits")?.context()?;
    context.set_input(0, &[1, 1, SIDE as u32, SIDE as u32], pixels)?;
    context.compute()?;
    context.get_output(0)
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = logits.iter().map(|logit| (logit - largest).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.iter().map(|power| power / sum).collect()
}

fn best(probabilities: &[f32]) -> (usize, f32) {
    let largest = |best: (usize, f32), (label, &p)| if p > best.1 { (label, p) } else { best };
    probabilities.iter().enumerate().fold((0, 0.0), largest)
}

/// `reason` goes into JSON between quotes: whatever would need an escape there is left out.
fn refusal(status: u16, reason: &str) -> Response {
    let reason: String = reason
        .chars()
        .filter(|c| !c.is_control() && !matches!(c, '"' | '\\'))
        .collect();
    Response::json("{\"error\": \"".to_owned() + &reason + "\"}\n").with_status(status)
}

serve!(digits);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_sums_to_one_and_keeps_the_order_even_for_large_logits() {
        let probabilities = softmax(&[1000.0, 1001.0, 999.0]);
        assert!((probabilities.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert_eq!(best(&probabilities).0, 1);
    }

    #[test]
    fn what_is_no_png_is_the_callers_fault() {
        let answer = digits(Request::new("POST", "/").with_body(*b"GIF89a")).unwrap_err();
        assert_eq!(
            (answer.status(), answer.header("content-type")),
            (400, Some("application/json"))
        );
        assert_eq!(digits(Request::new("GET", "/")).unwrap_err().status(), 405);
    }

    #[test]
    fn a_reason_stays_inside_its_quotes() {
        assert_eq!(
            refusal(400, "a\"b\\c\nd").body(),
            b"{\"error\": \"abcd\"}\n"
        );
    }
}
