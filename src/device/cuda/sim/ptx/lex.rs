//! Words, punctuation and line numbers.
//!
//! A dot is part of a word, so that `ld.global.v4.u32`, `%tid.x` and `.reg` are each one token.

use crate::device::cuda::sim::Error;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Token<'a> {
    Word(&'a str),
    Text(&'a str),
    Punct(u8),
    End,
}

/// Splits PTX into tokens and the lines they are on, counted from 1.
pub fn lex(source: &str) -> Result<Vec<(Token<'_>, u32)>, Error> {
    let bytes = source.as_bytes();
    let mut tokens = Vec::with_capacity(bytes.len() / 4);
    let (mut at, mut line) = (0, 1);
    while at < bytes.len() {
        match bytes[at] {
            b'\n' => {
                line += 1;
                at += 1;
            }
            byte if byte.is_ascii_whitespace() || byte == 0 => at += 1,
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                while at < bytes.len() && bytes[at] != b'\n' {
                    at += 1;
                }
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                let end =
                    source[at..].find("*/").ok_or_else(|| Error::parse(line, "a comment does not end"))?;
                line += source[at..at + end].matches('\n').count() as u32;
                at += end + 2;
            }
            b'"' => {
                let end =
                    source[at + 1..].find('"').ok_or_else(|| Error::parse(line, "a string does not end"))?;
                tokens.push((Token::Text(&source[at + 1..at + 1 + end]), line));
                at += end + 2;
            }
            byte if is_word(byte) => {
                let start = at;
                while at < bytes.len() && (is_word(bytes[at]) || is_path(bytes, at)) {
                    at += if is_word(bytes[at]) { 1 } else { 2 };
                }
                tokens.push((Token::Word(&source[start..at]), line));
            }
            byte if byte.is_ascii_punctuation() => {
                tokens.push((Token::Punct(byte), line));
                at += 1;
            }
            byte => return Err(Error::parse(line, format!("unexpected byte {byte:#04x}"))),
        }
    }
    tokens.push((Token::End, line));
    Ok(tokens)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'%' | b'.')
}

/// `::`, as in `shared::cta` and `L2::128B`.
fn is_path(bytes: &[u8], at: usize) -> bool {
    bytes[at] == b':' && bytes.get(at + 1) == Some(&b':') && bytes.get(at + 2).is_some_and(|&b| is_word(b))
}
