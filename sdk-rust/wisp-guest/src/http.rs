//! Outbound HTTP: a [`Request`] whose path is an absolute URL goes out, a [`Response`] comes back.
//!
//! ```no_run
//! use wisp_guest::http::{HttpError, fetch};
//! use wisp_guest::{Request, Response};
//!
//! fn weather(city: &str) -> Result<Response, HttpError> {
//!     fetch(Request::new("GET", format!("https://api.example.com/weather?city={city}")).with_header("accept", "text/plain"))
//! }
//! ```
//!
//! The platform makes the request, if the policy's `allowed_outbound_hosts` and the operator let it. Redirects are
//! answers like any other, bodies come as they were sent (compressed ones stay so), and the function's deadline holds.

use std::fmt;

use crate::exchange::{Request, Response};
use crate::sys;

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum HttpError {
    /// 1: the URL, the method or a header is none.
    Invalid,
    /// 2: the policy does not allow the host, or the operator its network.
    Denied,
    /// 3: the request or the answer is larger than `limits.response_body`.
    TooLarge,
    /// 4: no such host, no connection, or no trust in its certificate.
    Unreachable,
    /// 5: the host's answer is not HTTP.
    Protocol,
    /// 6: more requests than one invocation may make.
    Exhausted,
    /// Any other errno.
    Unknown(u32),
}

impl From<u32> for HttpError {
    fn from(errno: u32) -> Self {
        match errno {
            1 => Self::Invalid,
            2 => Self::Denied,
            3 => Self::TooLarge,
            4 => Self::Unreachable,
            5 => Self::Protocol,
            6 => Self::Exhausted,
            other => Self::Unknown(other),
        }
    }
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Invalid => "the URL, the method or a header is none",
            Self::Denied => "denied",
            Self::TooLarge => "too large",
            Self::Unreachable => "unreachable",
            Self::Protocol => "the answer is not HTTP",
            Self::Exhausted => "too many requests",
            Self::Unknown(errno) => return write!(f, "errno {errno}"),
        })
    }
}

impl std::error::Error for HttpError {}

/// For `?` in a handler: 502, and the reason in the log only.
impl From<HttpError> for Response {
    fn from(error: HttpError) -> Self {
        eprintln!("http: {error}");
        Self::new(502)
    }
}

/// Sends the request and waits for the whole answer. The request's query is part of its URL.
pub fn fetch(request: Request) -> Result<Response, HttpError> {
    let answer = sys::http_exchange(&request.encode())?;
    Response::decode(&answer).map_err(|_| HttpError::Protocol)
}
