//! The first stage: Unicode's normal forms, control characters, and documents that are too short or too long.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick, is_nfkc_quick};

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum, Serialize, Deserialize)]
pub enum Form {
    /// As it is
    None,
    /// Canonical composition: é is one character, however it was written
    Nfc,
    /// And compatibility: ﬁ becomes fi, full-width letters become plain ones
    Nfkc,
}

/// `text` in a normal form, with `\n` at the end of its lines and without control characters, byte order marks and the
/// spaces around it. [`Form::None`] changes nothing.
pub fn normalise(text: String, form: Form) -> String {
    let composed = match form {
        Form::None => return text,
        Form::Nfc if is_nfc_quick(text.chars()) == IsNormalized::Yes => text,
        Form::Nfkc if is_nfkc_quick(text.chars()) == IsNormalized::Yes => text,
        Form::Nfc => text.nfc().collect(),
        Form::Nfkc => text.nfkc().collect(),
    };
    let plain = |char: char| !(char.is_control() || char == '\u{feff}') || char == '\n' || char == '\t';
    if composed.chars().all(plain) && composed.trim().len() == composed.len() {
        return composed;
    }
    let unix = composed.replace("\r\n", "\n").replace('\r', "\n");
    unix.trim().chars().filter(|&char| plain(char)).collect()
}

/// Why a document's length speaks against it.
pub fn length(text: &str, min_chars: usize, max_chars: usize) -> Option<&'static str> {
    if text.trim().is_empty() {
        return Some("empty");
    }
    match text.chars().count() {
        n if n < min_chars => Some("too short"),
        n if n > max_chars => Some("too long"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_forms() {
        let normal = |text: &str, form| normalise(text.to_owned(), form);
        assert_eq!(normal("e\u{301}", Form::Nfc), "é");
        assert_eq!(normal("ﬁ Ａ", Form::Nfc), "ﬁ Ａ");
        assert_eq!(normal("ﬁ Ａ", Form::Nfkc), "fi A");
        assert_eq!(normal("\u{feff}a\r\nb\rc\0\td \n", Form::Nfc), "a\nb\nc\td");
        assert_eq!(normal(" a\r\n", Form::None), " a\r\n");
    }

    #[test]
    fn lengths_count_characters() {
        assert_eq!(length("éé", 2, 2), None);
        assert_eq!(length("ééé", 2, 2), Some("too long"));
        assert_eq!(length("é", 2, 2), Some("too short"));
        assert_eq!(length(" \n", 0, 9), Some("empty"));
    }
}
