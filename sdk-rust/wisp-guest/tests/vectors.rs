//! The codec against the vectors that the platform's codec reads too (`tests/exchange/`).

use serde_json::Value;
use wisp_guest::{ExchangeError, Request, Response};

const REQUESTS: &str = include_str!("../../../tests/exchange/requests.json");
const RESPONSES: &str = include_str!("../../../tests/exchange/responses.json");

fn cases(file: &str, kind: &str) -> Vec<Value> {
    let file: Value = serde_json::from_str(file).unwrap();
    let cases = file[kind].as_array().unwrap().clone();
    assert!(!cases.is_empty());
    cases
}

fn text<'a>(case: &'a Value, key: &str) -> &'a str {
    case[key].as_str().unwrap()
}

fn bytes(case: &Value, key: &str) -> Vec<u8> {
    let hex = text(case, key);
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn headers(case: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    case["headers"].as_array().unwrap().iter().map(|pair| (text(&pair[0]), text(&pair[1]))).collect()
}

fn fault(error: &ExchangeError) -> &'static str {
    match error {
        ExchangeError::Version(_) => "version",
        ExchangeError::Truncated { .. } => "truncated",
        ExchangeError::NotUtf8 => "not_utf8",
        ExchangeError::Status(_) => "status",
        ExchangeError::HeaderName(_) => "header_name",
        ExchangeError::HeaderValue(_) => "header_value",
    }
}

#[test]
fn requests_decode_to_their_fields_and_back() {
    for case in cases(REQUESTS, "valid") {
        let mut built = Request::new(text(&case, "method"), text(&case, "path"))
            .with_query(text(&case, "query"))
            .with_body(bytes(&case, "body_hex"));
        for (name, value) in headers(&case) {
            built = built.with_header(&name, value);
        }
        let message = bytes(&case, "hex");
        assert_eq!(Request::decode(&message).as_ref(), Ok(&built), "{}", case["name"]);
        assert_eq!(built.encode(), message, "{}", case["name"]);
    }
}

#[test]
fn responses_decode_to_their_fields_and_back() {
    for case in cases(RESPONSES, "valid") {
        let status = u16::try_from(case["status"].as_u64().unwrap()).unwrap();
        let mut built = Response::new(status).with_body(bytes(&case, "body_hex"));
        for (name, value) in headers(&case) {
            built = built.with_header(&name, value);
        }
        let message = bytes(&case, "hex");
        assert_eq!(Response::decode(&message).as_ref(), Ok(&built), "{}", case["name"]);
        assert_eq!(built.encode(), message, "{}", case["name"]);
    }
}

#[test]
fn malformed_requests_are_refused_for_the_fault_named() {
    for case in cases(REQUESTS, "malformed") {
        let error = Request::decode(&bytes(&case, "hex")).expect_err(text(&case, "name"));
        assert_eq!(fault(&error), text(&case, "fault"), "{}", case["name"]);
    }
}

#[test]
fn malformed_responses_are_refused_for_the_fault_named() {
    for case in cases(RESPONSES, "malformed") {
        let error = Response::decode(&bytes(&case, "hex")).expect_err(text(&case, "name"));
        assert_eq!(fault(&error), text(&case, "fault"), "{}", case["name"]);
    }
}

#[test]
fn headers_are_found_whatever_their_case_and_stay_repeated() {
    let request = Request::new("GET", "/").with_header("X-A", "1").with_header("x-b", "2").with_header("x-a", "3");
    assert_eq!(request.header("X-a"), Some("1"));
    assert_eq!(request.header_values("x-A").collect::<Vec<_>>(), ["1", "3"]);
    assert_eq!(request.header("x-c"), None);
    assert_eq!(request.headers()[0].0, "x-a");
}

#[test]
fn a_query_parameter_is_the_first_of_its_name() {
    let request = Request::new("GET", "/").with_query("a=1&name=J%C3%BCrgen+B&name=second");
    assert_eq!(request.query_param("name").as_deref(), Some("J\u{fc}rgen B"));
    assert_eq!(request.query_param("b"), None);
}

#[test]
fn a_result_becomes_the_response_it_holds() {
    let refused: Result<Response, Response> = Err(Response::new(400));
    assert_eq!(Response::from(refused).status(), 400);
    let failed: Result<Response, wisp_guest::nn::NnError> = Err(wisp_guest::nn::NnError::NotFound);
    assert_eq!(Response::from(failed), Response::new(500));
}
