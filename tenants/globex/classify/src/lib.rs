//! Names what is in a picture: `{"label": "Egyptian cat", "confidence": 0.8398, "latency_ms": 14.000}`.
//!
//! The body is `{"image_data": <base64 or an array of bytes, RGBA>, "width": w, "height": h}`, or a PNG, JPEG or BMP
//! file. The policy's model `mobilenet` takes f32[1,3,224,224] and gives one logit for each line of `/models/labels.txt`.
//! A picture that cannot be read is answered with 400 and `{"error": ...}`; one line a request goes to
//! `/tmp/logs/classify.log`.

#[cfg(feature = "decoders")]
mod decoders;
mod engine;
mod image;
mod json;
mod kind;
mod tensor;

use std::path::Path;
use std::time::{Duration, Instant};

use engine::{EdgeInferenceEngine, Finding};
use image::Image;
use kind::Kind;
use wisp_guest::{Request, Response, serve};

const LABELS: &str = "/models/labels.txt";
const LOG: &str = "/tmp/logs/classify.log";

fn classify(request: Request) -> Response {
    answer(
        &request,
        &EdgeInferenceEngine::new(Path::new(LABELS), Path::new(LOG)),
    )
}

fn answer(request: &Request, engine: &EdgeInferenceEngine) -> Response {
    let started = Instant::now();
    if request.method() != "POST" {
        return refusal(405, "POST a picture").with_header("allow", "POST");
    }
    let (kind, image) = match read(request) {
        Ok(read) => read,
        Err(reason) => {
            engine.note(&format!("refused: {reason}"));
            return refusal(400, &reason);
        }
    };
    match engine.classify(&image) {
        Ok(finding) => {
            let latency = started.elapsed();
            let Finding { label, confidence } = &finding;
            let (confidence, milliseconds) = (ten_thousandths(*confidence), thousandths(latency));
            let (name, width, height) = (kind.name(), image.width(), image.height());
            engine.note(&format!(
                "{label} {confidence} from {name} {width}x{height} in {milliseconds} ms"
            ));
            let label = quoted(label);
            Response::json(format!(
                "{{\"label\": {label}, \"confidence\": {confidence}, \"latency_ms\": {milliseconds}}}\n"
            ))
        }
        Err(fault) => {
            eprintln!("{fault}");
            engine.note(&format!("failed: {fault}"));
            refusal(
                500,
                "the function is not set up as it should be; its log says more",
            )
        }
    }
}

fn read(request: &Request) -> Result<(Kind, Image<'_>), String> {
    let body = request.body();
    if body.is_empty() {
        return Err("the body is empty".into());
    }
    let kind = Kind::of(request.header("content-type"), body)?;
    let image = match kind {
        Kind::Json => json::read(body),
        #[cfg(feature = "decoders")]
        Kind::Png => decoders::png(body),
        #[cfg(feature = "decoders")]
        Kind::Jpeg => decoders::jpeg(body),
        #[cfg(feature = "decoders")]
        Kind::Bmp => decoders::bmp(body),
        #[cfg(not(feature = "decoders"))]
        _ => Err("this function was built without decoders: send JSON with RGBA pixels".into()),
    }?;
    Ok((kind, image))
}

fn refusal(status: u16, reason: &str) -> Response {
    Response::json(format!("{{\"error\": {}}}\n", quoted(reason))).with_status(status)
}

/// Fixed-point: formatting floating-point numbers would be a tenth of a small module.
fn ten_thousandths(share: f32) -> String {
    let parts = (share * 10_000.0).round() as u32;
    format!("{}.{:04}", parts / 10_000, parts % 10_000)
}

fn thousandths(time: Duration) -> String {
    format!("{}.{:03}", time.as_millis(), time.subsec_micros() % 1000)
}

/// As a JSON string (RFC 8259, section 7).
fn quoted(text: &str) -> String {
    let mut json = String::with_capacity(text.len() + 2);
    json.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => json.extend(['\\', character]),
            control if control < ' ' => json += &format!("\\u{:04x}", control as u32),
            other => json.push(other),
        }
    }
    json.push('"');
    json
}

serve!(classify);

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(request: Request) -> (u16, String) {
        let answered = answer(
            &request,
            &EdgeInferenceEngine::new(Path::new("/nowhere"), Path::new("/nowhere/log")),
        );
        assert_eq!(answered.header("content-type"), Some("application/json"));
        (
            answered.status(),
            String::from_utf8(answered.body().to_vec()).unwrap(),
        )
    }

    fn post(content_type: &str, body: &[u8]) -> (u16, String) {
        ask(Request::new("POST", "/")
            .with_header("content-type", content_type)
            .with_body(body))
    }

    #[test]
    fn what_is_no_picture_is_the_callers_fault() {
        for (content_type, body) in [
            ("application/json", &b""[..]),
            ("application/json", b"{}"),
            ("image/png", b"BM"),
            ("image/jpeg", b"\xff\xd8\xff"),
            ("image/bmp", b"GIF89a"),
            ("image/gif", b"GIF89a"),
            ("application/octet-stream", b"GIF89a"),
        ] {
            let (status, text) = post(content_type, body);
            assert_eq!(status, 400, "{content_type}");
            assert!(text.starts_with("{\"error\": \""), "{text}");
        }
        assert_eq!(ask(Request::new("GET", "/")).0, 405);
    }

    #[test]
    fn a_missing_model_is_the_functions_fault_and_not_told() {
        let body = br#"{"image_data": [1, 2, 3, 4], "width": 1, "height": 1}"#;
        let (status, text) = post("application/json", body);
        assert_eq!(status, 500);
        assert!(!text.contains("mobilenet"), "{text}");
    }

    #[test]
    fn numbers_keep_their_leading_zeros() {
        assert_eq!(
            [1.0, 0.01234, 0.99996].map(ten_thousandths),
            ["1.0000", "0.0123", "1.0000"]
        );
        assert_eq!(thousandths(Duration::from_micros(12_007)), "12.007");
        assert_eq!(thousandths(Duration::from_millis(3_000)), "3000.000");
    }

    #[test]
    fn a_label_cannot_leave_its_quotes() {
        assert_eq!(quoted("a\"b\\c\n\u{7f}é"), "\"a\\\"b\\\\c\\u000a\u{7f}é\"");
    }
}
