//! `{"image_data": <base64 or an array of bytes, RGBA>, "width": w, "height": h}`, and nothing else.
//!
//! A reader of exactly this shape: the pixels are found first and decoded when their dimensions are known, so that
//! nothing is allocated for what is not there, and the module stays small.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::image::{Image, Layout, check_dimensions};

const RGBA: usize = 4;

/// Where the pixels are, not decoded yet.
enum Data<'a> {
    Base64(&'a [u8]),
    Array(&'a [u8]),
}

/// The pixels of a JSON body. The error says what is wrong with it.
pub fn read(body: &[u8]) -> Result<Image<'static>, String> {
    let (mut data, mut width, mut height) = (None, None, None);
    let mut cursor = Cursor { rest: body };
    cursor.expect(b'{', "the body is no JSON object")?;
    if !cursor.took(b'}') {
        loop {
            match cursor.string()? {
                b"image_data" => {
                    cursor.colon()?;
                    set(&mut data, cursor.data()?, "image_data")?;
                }
                b"width" => {
                    cursor.colon()?;
                    set(&mut width, cursor.integer("width")?, "width")?;
                }
                b"height" => {
                    cursor.colon()?;
                    set(&mut height, cursor.integer("height")?, "height")?;
                }
                _ => return Err("the keys are image_data, width and height, and no other".into()),
            }
            if cursor.took(b'}') {
                break;
            }
            cursor.expect(
                b',',
                "the JSON is malformed: a comma or a closing brace is missing",
            )?;
        }
    }
    cursor.end()?;
    let (Some(data), Some(width), Some(height)) = (data, width, height) else {
        return Err("image_data, width and height are all needed".into());
    };
    let (columns, rows) = check_dimensions(width, height)?;
    let expected = columns * rows * RGBA;
    let samples = match data {
        Data::Base64(text) => from_base64(text, expected)?,
        Data::Array(items) => from_array(items, expected)?,
    };
    if samples.len() != expected {
        return Err(wrong_length(width, height, expected));
    }
    Image::new(width, height, Layout::packed(columns, RGBA), samples)
}

fn set<T>(slot: &mut Option<T>, value: T, key: &str) -> Result<(), String> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(format!("{key} is there twice")),
    }
}

fn wrong_length(width: u32, height: u32, expected: usize) -> String {
    format!("image_data does not hold {expected} bytes, which {width} by {height} RGBA pixels are")
}

/// Empty, which is never what was expected, for a text that cannot hold `expected` bytes: those of another length are
/// not decoded.
fn from_base64(text: &[u8], expected: usize) -> Result<Vec<u8>, String> {
    let text = unescaped(text);
    if text.len() != expected.div_ceil(3) * 4 {
        return Ok(Vec::new());
    }
    STANDARD
        .decode(text)
        .map_err(|_| "image_data is not base64".into())
}

/// Some writers of JSON escape the solidus, which is a digit of base64; no other escape can stand for one.
fn unescaped(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.contains(&b'\\') {
        return Cow::Borrowed(text);
    }
    let mut plain = Vec::with_capacity(text.len());
    let mut bytes = text.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte == b'\\' && bytes.peek() == Some(&b'/') {
            continue;
        }
        plain.push(byte);
    }
    Cow::Owned(plain)
}

/// Stops one byte past `expected`: a longer array is refused in any case.
fn from_array(items: &[u8], expected: usize) -> Result<Vec<u8>, String> {
    // Every item but the last takes two characters or more.
    let mut bytes = Vec::with_capacity(expected.min(items.len() / 2 + 1));
    let mut cursor = Cursor { rest: items };
    cursor.skip_space();
    if cursor.rest.is_empty() {
        return Ok(bytes);
    }
    loop {
        let item = cursor.integer("each item of image_data")?;
        bytes.push(
            u8::try_from(item)
                .map_err(|_| "each item of image_data must be an integer from 0 to 255")?,
        );
        if bytes.len() > expected {
            return Ok(bytes);
        }
        if !cursor.took(b',') {
            cursor
                .end()
                .map_err(|_| "image_data is no array of integers")?;
            return Ok(bytes);
        }
    }
}

/// What has not been read yet.
struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn skip_space(&mut self) {
        while let [b' ' | b'\t' | b'\n' | b'\r', rest @ ..] = self.rest {
            self.rest = rest;
        }
    }

    fn took(&mut self, byte: u8) -> bool {
        self.skip_space();
        let there = self.rest.first() == Some(&byte);
        self.rest = &self.rest[usize::from(there)..];
        there
    }

    fn expect(&mut self, byte: u8, otherwise: &str) -> Result<(), String> {
        if self.took(byte) {
            Ok(())
        } else {
            Err(otherwise.into())
        }
    }

    fn colon(&mut self) -> Result<(), String> {
        self.expect(b':', "the JSON is malformed: a colon is missing")
    }

    fn end(&mut self) -> Result<(), String> {
        self.skip_space();
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err("something follows the JSON object".into())
        }
    }

    /// What stands between quotes, escapes and all.
    fn string(&mut self) -> Result<&'a [u8], String> {
        self.expect(b'"', "the JSON is malformed: a string is missing")?;
        let mut end = 0;
        loop {
            let more = self.rest[end..].iter().position(|&byte| byte == b'"');
            end += more.ok_or("the JSON is malformed: a string does not end")?;
            let escapes = self.rest[..end]
                .iter()
                .rev()
                .take_while(|&&byte| byte == b'\\')
                .count();
            if escapes % 2 == 0 {
                break;
            }
            end += 1;
        }
        let (text, rest) = (&self.rest[..end], &self.rest[end + 1..]);
        self.rest = rest;
        Ok(text)
    }

    fn data(&mut self) -> Result<Data<'a>, String> {
        if !self.took(b'[') {
            let text = self
                .string()
                .map_err(|_| "image_data is neither base64 in a string nor an array of bytes")?;
            return Ok(Data::Base64(text));
        }
        let end = self
            .rest
            .iter()
            .position(|&byte| byte == b']')
            .ok_or("the array of image_data does not end")?;
        let (items, rest) = (&self.rest[..end], &self.rest[end + 1..]);
        self.rest = rest;
        Ok(Data::Array(items))
    }

    /// A JSON number that is a u32, without fraction and exponent. Most of a body can be such numbers: one pass.
    fn integer(&mut self, key: &str) -> Result<u32, String> {
        self.skip_space();
        let (mut value, mut rest) = (Some(0_u32), self.rest);
        while let [digit @ b'0'..=b'9', tail @ ..] = rest {
            value =
                value.and_then(|value| value.checked_mul(10)?.checked_add(u32::from(digit - b'0')));
            rest = tail;
        }
        let leads_with_zero = self.rest.first() == Some(&b'0') && self.rest.len() - rest.len() > 1;
        match value {
            Some(value)
                if rest.len() < self.rest.len()
                    && !leads_with_zero
                    && !matches!(rest.first(), Some(b'.' | b'e' | b'E')) =>
            {
                self.rest = rest;
                Ok(value)
            }
            _ => Err(format!(
                "{key} must be an integer, not negative and less than 4294967296"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(data: &str, width: &str, height: &str) -> Vec<u8> {
        format!(r#"{{"image_data": {data}, "width": {width}, "height": {height}}}"#).into_bytes()
    }

    fn pixels(body: &[u8]) -> Result<Vec<u8>, String> {
        let image = read(body)?;
        Ok((0..image.height())
            .flat_map(|y| image.row(y).to_vec())
            .collect())
    }

    #[test]
    fn base64_and_an_array_say_the_same() {
        let bytes = [255, 0, 7, 128, 1, 2, 3, 4];
        assert_eq!(pixels(&body("\"/wAHgAECAwQ=\"", "2", "1")).unwrap(), bytes);
        assert_eq!(
            pixels(&body("\"\\/wAHgAECAwQ=\"", "1", "2")).unwrap(),
            bytes,
            "an escaped solidus"
        );
        assert_eq!(
            pixels(&body("[255, 0,7 ,128,\n1,2,3,4]", "2", "1")).unwrap(),
            bytes
        );
    }

    #[test]
    fn the_order_of_keys_and_space_do_not_matter() {
        let compact = br#"{"height":1,"width":1,"image_data":[1,2,3,4]}"#;
        let spaced =
            b"\r\n{ \"width\" :\t1 , \"image_data\" : [ 1 , 2 , 3 , 4 ] , \"height\" : 1 } \n";
        assert_eq!(pixels(compact).unwrap(), [1, 2, 3, 4]);
        assert_eq!(pixels(spaced).unwrap(), [1, 2, 3, 4]);
    }

    #[test]
    fn what_is_no_image_is_refused_with_its_reason() {
        for (bad, reason) in [
            (&b""[..], "no JSON object"),
            (b"[]", "no JSON object"),
            (b"{}", "all needed"),
            (b"{", "a string is missing"),
            (b"{\"width", "does not end"),
            (b"{\"width\\\"", "does not end"),
            (b"{\"width\" 1}", "a colon"),
            (b"{\"width\": 1 \"height\": 1}", "a comma"),
            (b"{\"width\": 1,}", "a string is missing"),
            (b"{\"width\": 1, \"width\": 1}", "width is there twice"),
            (b"{\"depth\": 1}", "no other"),
            (b"{\"image_data\": null}", "neither base64"),
            (b"{\"image_data\": [1, 2", "does not end"),
            (&body("[1,2,3,4]", "1.0", "1"), "width must be an integer"),
            (&body("[1,2,3,4]", "1", "1e0"), "height must be an integer"),
            (&body("[1,2,3,4]", "-1", "1"), "width must be an integer"),
            (&body("[1,2,3,4]", "01", "1"), "width must be an integer"),
            (
                &body("[1,2,3,4]", "4294967297", "1"),
                "width must be an integer",
            ),
            (&body("[1,2,3,4]", "\"1\"", "1"), "width must be an integer"),
            (&body("[1,2,3,4]", "0", "1"), "no pixels"),
            (&body("[1,2,3,4]", "1", "8193"), "8192 on a side"),
            (
                &body("[1,2,3,4]", "4294967295", "4294967295"),
                "8192 on a side",
            ),
            (&body("[1,2,3,4]", "8192", "8192"), "2097152 pixels"),
            (&body("[1,2,3]", "1", "1"), "hold 4 bytes"),
            (&body("[1,2,3,4,5]", "1", "1"), "hold 4 bytes"),
            (&body("[]", "1", "1"), "hold 4 bytes"),
            (&body("[1,2,3,256]", "1", "1"), "0 to 255"),
            (&body("[1,2,3,-4]", "1", "1"), "must be an integer"),
            (&body("[1,2,3,]", "1", "1"), "must be an integer"),
            (&body("[,1,2,3]", "1", "1"), "must be an integer"),
            (&body("[1,2,3,4,]", "1", "1"), "must be an integer"),
            (&body("[1,2 3,4]", "1", "1"), "no array of integers"),
            (&body("[[1],2,3,4]", "1", "1"), "a string is missing"),
            (&body("\"\"", "1", "1"), "hold 4 bytes"),
            (&body("\"AQIDBAU=\"", "1", "1"), "hold 4 bytes"),
            (&body("\"AQIDBA==AQID\"", "1", "1"), "hold 4 bytes"),
            (&body("\"AQID*A==\"", "1", "1"), "not base64"),
            (&body("\"AQIDBA\\n=\"", "1", "1"), "hold 4 bytes"),
            (
                &[body("[1,2,3,4]", "1", "1"), b"{}".to_vec()].concat(),
                "something follows",
            ),
        ] {
            let refused = read(bad).expect_err(&String::from_utf8_lossy(bad));
            assert!(
                refused.contains(reason),
                "{}: {refused}",
                String::from_utf8_lossy(bad)
            );
        }
    }
}
