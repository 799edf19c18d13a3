//! From pixels to a name: the model, the labels of the bundle, and the log.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use wisp_guest::nn::{Graph, NnError};

use crate::image::Image;
use crate::tensor::{LENGTH, SHAPE, fill};

/// The name of the model in the policy.
const MODEL: &str = "mobilenet";

/// What an image shows, and how sure the model is: from 0 to 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// The class's line in the labels file.
    pub label: String,
    /// The class's share after softmax.
    pub confidence: f32,
}

/// Where the engine's files are.
#[derive(Debug, Clone, Copy)]
pub struct EdgeInferenceEngine<'p> {
    labels: &'p Path,
    log: &'p Path,
}

impl<'p> EdgeInferenceEngine<'p> {
    /// `labels` has one line a class, in the model's order, perhaps after a line for the background; `log` is appended to.
    pub fn new(labels: &'p Path, log: &'p Path) -> Self {
        Self { labels, log }
    }

    /// The most likely class. The error is the function's fault, not the caller's: a model or a labels file that is
    /// missing, or two that do not go together.
    pub fn classify(&self, image: &Image) -> Result<Finding, String> {
        let logits = infer(image).map_err(|error| format!("model {MODEL}: {error}"))?;
        let (class, confidence) =
            most_likely(&logits).ok_or_else(|| format!("model {MODEL}: no finite output"))?;
        let text = read_whole(self.labels)
            .map_err(|error| format!("{}: {error}", self.labels.display()))?;
        let label = label_of(class, logits.len(), &text).ok_or_else(|| {
            format!(
                "{}: its lines are not the model's {} classes",
                self.labels.display(),
                logits.len()
            )
        })?;
        Ok(Finding {
            label: label.to_owned(),
            confidence,
        })
    }

    /// Writes one line to the log. A log that cannot be written to does not fail a request.
    pub fn note(&self, line: &str) {
        let written = OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.log)
            .and_then(|mut log| log.write_all(format!("{line}\n").as_bytes()));
        if let Err(error) = written {
            eprintln!("{}: {error}", self.log.display());
        }
    }
}

/// The model's input: it need not be asked for, nor be filled with zeros first.
static INPUT: Mutex<[f32; LENGTH]> = Mutex::new([0.0; LENGTH]);

fn infer(image: &Image) -> Result<Vec<f32>, NnError> {
    let mut context = Graph::load_by_name(MODEL)?.context()?;
    let mut input = INPUT.lock().unwrap_or_else(PoisonError::into_inner);
    fill(&mut input, image);
    context.set_input(0, &SHAPE, input.as_slice())?;
    context.compute()?;
    context.get_output(0)
}

/// The class with the largest logit, and its share after softmax; none if there is no finite logit.
fn most_likely(logits: &[f32]) -> Option<(usize, f32)> {
    let (class, &largest) = logits
        .iter()
        .enumerate()
        .max_by(|(_, a), (_, b)| a.total_cmp(b))?;
    let sum: f32 = logits.iter().map(|logit| (logit - largest).exp()).sum();
    sum.is_finite().then_some((class, 1.0 / sum))
}

/// A file whose length is known beforehand, without asking again whether there is more.
fn read_whole(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut content = vec![0; file.metadata()?.len() as usize];
    file.read_exact(&mut content)?;
    Ok(content)
}

/// With one line more than there are classes, the first is the background's.
fn label_of(class: usize, classes: usize, text: &[u8]) -> Option<&str> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let ends = text.iter().filter(|&&byte| byte == b'\n').count();
    let background = (ends + 1).checked_sub(classes).filter(|&more| more <= 1)?;
    let line = text.split(|&byte| byte == b'\n').nth(class + background)?;
    let label = std::str::from_utf8(line).ok()?.trim();
    (!label.is_empty()).then_some(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_that_of_softmax_even_for_large_logits() {
        let (class, confidence) = most_likely(&[1000.0, 1001.0, 999.0]).unwrap();
        assert_eq!(class, 1);
        assert!((confidence - 0.665_240_96).abs() < 1e-6);
        assert_eq!(most_likely(&[]), None);
        assert_eq!(most_likely(&[f32::NAN, 1.0]), None);
    }

    #[test]
    fn a_label_is_found_with_and_without_a_background_line() {
        assert_eq!(label_of(0, 2, b"tench\ngoldfish\n"), Some("tench"));
        assert_eq!(
            label_of(1, 2, b"background\r\ntench\r\ngoldfish\r\n"),
            Some("goldfish")
        );
        assert_eq!(label_of(1, 2, b"tench"), None);
        assert_eq!(label_of(1, 2, b"a\nb\nc\nd\n"), None);
        assert_eq!(label_of(1, 2, b"tench\n\n"), None);
    }

    #[test]
    fn the_log_grows_by_lines_and_its_absence_is_borne() {
        let log = std::env::temp_dir().join(format!("globex-classify-{}.log", std::process::id()));
        let engine = EdgeInferenceEngine::new(Path::new("/nowhere"), &log);
        engine.note("one");
        engine.note("two");
        let written = std::fs::read_to_string(&log);
        std::fs::remove_file(&log).unwrap();
        assert_eq!(written.unwrap(), "one\ntwo\n");
        EdgeInferenceEngine::new(Path::new("/nowhere"), Path::new("/nowhere/log")).note("three");
    }

    #[test]
    fn natively_there_is_no_model() {
        let image = Image::new(1, 1, crate::image::Layout::packed(1, 4), vec![0; 4]).unwrap();
        let fault = EdgeInferenceEngine::new(Path::new("/nowhere"), Path::new("/nowhere"))
            .classify(&image)
            .unwrap_err();
        assert_eq!(fault, "model mobilenet: unsupported operation");
    }
}
