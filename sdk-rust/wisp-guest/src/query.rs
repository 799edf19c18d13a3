//! `application/x-www-form-urlencoded` as the URL standard parses it (WHATWG URL, section 5.1).

/// The decoded (name, value) pairs of a query, in order; empty sequences are skipped.
pub(crate) fn pairs(query: &str) -> impl Iterator<Item = (String, String)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name), decode(value))
    })
}

/// A `%` without two hexadecimal digits after it stands for itself; bytes that are not UTF-8 become U+FFFD.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        bytes.push(match first {
            b'+' => b' ',
            b'%' => match (tail.first().copied().and_then(hex), tail.get(1).copied().and_then(hex)) {
                (Some(high), Some(low)) => {
                    rest = &tail[2..];
                    high << 4 | low
                }
                _ => b'%',
            },
            other => other,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(query: &str) -> Vec<(String, String)> {
        pairs(query).collect()
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.into(), value.into())
    }

    #[test]
    fn splits_before_it_decodes() {
        assert_eq!(decoded("a=1%262&b%3Dc=d=e"), [pair("a", "1&2"), pair("b=c", "d=e")]);
    }

    #[test]
    fn skips_empty_sequences_and_keeps_empty_values() {
        assert_eq!(decoded(""), []);
        assert_eq!(decoded("&&a&=b&"), [pair("a", ""), pair("", "b")]);
    }

    #[test]
    fn plus_and_percent_are_decoded_once() {
        assert_eq!(decoded("q=a+b%20c%2B%252B"), [pair("q", "a b c+%2B")]);
    }

    #[test]
    fn multi_byte_characters_and_what_is_not_utf8() {
        assert_eq!(decoded("q=%C3%BC%E2%82%AC"), [pair("q", "\u{fc}\u{20ac}")]);
        assert_eq!(decoded("q=%FF"), [pair("q", "\u{fffd}")]);
    }

    #[test]
    fn a_percent_without_two_digits_stands_for_itself() {
        assert_eq!(
            decoded("q=100%&r=%zz&s=%4&t=%+1"),
            [pair("q", "100%"), pair("r", "%zz"), pair("s", "%4"), pair("t", "% 1"),]
        );
    }
}
