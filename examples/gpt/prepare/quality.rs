//! The quality rules of Gopher (Rae et al. 2021, "Scaling Language Models", appendix A.1 and its table A1): what a
//! document of prose looks like, in numbers.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

#[derive(Clone, Copy, Debug, PartialEq, clap::Args, Serialize, Deserialize)]
pub struct QualityArgs {
    /// --quality: fewest words of a document
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub min_words: usize,
    /// --quality: most words of a document
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub max_words: usize,
    /// --quality: fewest different words of the, be, to, of, and, that, have, with; 0 for other languages than English
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub min_stop_words: usize,
}

const STOP_WORDS: [&str; 8] = ["the", "be", "to", "of", "and", "that", "have", "with"];
const BULLETS: [&str; 5] = ["-", "*", "•", "‣", "◦"];

/// Characters in all occurrences of the most frequent n-gram, as a share of the document's.
const TOP_N_GRAMS: [(usize, f64); 3] = [(2, 0.20), (3, 0.18), (4, 0.16)];
/// Characters in n-grams that occurred before, each counted once, as a share of the document's.
const REPEATED_N_GRAMS: [(usize, f64); 6] =
    [(5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10)];

/// The first rule that `text` breaks. Words are what spaces separate; their lengths are in characters.
pub fn fault(text: &str, args: &QualityArgs) -> Option<&'static str> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let count = words.len();
    if count < args.min_words {
        return Some("few words");
    }
    if count > args.max_words {
        return Some("many words");
    }
    let lengths: Vec<usize> = words.iter().map(|word| word.chars().count()).collect();
    let chars: usize = lengths.iter().sum();
    let share = |part: usize, whole: usize| part as f64 / whole.max(1) as f64;
    if !(3.0..=10.0).contains(&share(chars, count)) {
        return Some("mean word length");
    }
    let symbols = [text.matches('#').count(), text.matches("...").count() + text.matches('…').count()];
    if symbols.iter().any(|&symbols| share(symbols, count) > 0.1) {
        return Some("symbols");
    }
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let lines_that =
        |is: &dyn Fn(&str) -> bool| share(lines.iter().filter(|line| is(line)).count(), lines.len());
    if lines_that(&|line| BULLETS.iter().any(|bullet| line.starts_with(bullet))) > 0.9 {
        return Some("bullet points");
    }
    if lines_that(&|line| line.ends_with("...") || line.ends_with('…')) > 0.3 {
        return Some("ellipses");
    }
    if share(words.iter().filter(|word| word.contains(char::is_alphabetic)).count(), count) < 0.8 {
        return Some("words without letters");
    }
    let plain = |word: &str| word.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase();
    let plain_words: Vec<String> = words.iter().map(|word| plain(word)).collect();
    let known: HashSet<&str> = plain_words.iter().map(String::as_str).collect();
    if STOP_WORDS.iter().filter(|word| known.contains(*word)).count() < args.min_stop_words {
        return Some("stop words");
    }
    repetition(&lines, text, &plain_words, &lengths, chars)
}

fn repetition(
    lines: &[&str],
    text: &str,
    words: &[String],
    lengths: &[usize],
    chars: usize,
) -> Option<&'static str> {
    let paragraphs: Vec<&str> = text.split("\n\n").map(str::trim).filter(|part| !part.is_empty()).collect();
    for (parts, reason) in [(lines, "repeated lines"), (&paragraphs, "repeated paragraphs")] {
        let (number, length) = repeated(parts);
        let total: usize = parts.iter().map(|part| part.len()).sum();
        if number as f64 > 0.3 * parts.len() as f64 || length as f64 > 0.2 * total as f64 {
            return Some(reason);
        }
    }
    let hashes: Vec<u64> = words.iter().map(|word| XxHash3_64::oneshot(word.as_bytes())).collect();
    for (n, most) in TOP_N_GRAMS {
        if top_n_gram(&n_grams(&hashes, n), lengths, n) as f64 > most * chars as f64 {
            return Some("frequent n-gram");
        }
    }
    for (n, most) in REPEATED_N_GRAMS {
        if repeated_n_grams(&n_grams(&hashes, n), lengths, n) as f64 > most * chars as f64 {
            return Some("repeated n-grams");
        }
    }
    None
}

/// A hash for each n words in a row.
fn n_grams(words: &[u64], n: usize) -> Vec<u64> {
    let mix = |hash: u64, &word: &u64| (hash.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    words.windows(n).map(|gram| gram.iter().fold(0, mix)).collect()
}

/// The number of parts that occurred before, and their bytes.
fn repeated(parts: &[&str]) -> (usize, usize) {
    let mut seen = HashSet::new();
    let again = parts.iter().filter(|part| !seen.insert(**part));
    again.fold((0, 0), |(number, length), part| (number + 1, length + part.len()))
}

/// Characters in the occurrences of the n-gram that has most of them; one that occurs once is not frequent.
fn top_n_gram(grams: &[u64], lengths: &[usize], n: usize) -> usize {
    let mut counts: HashMap<u64, (usize, usize)> = HashMap::with_capacity(grams.len());
    for (&gram, lengths) in grams.iter().zip(lengths.windows(n)) {
        let (count, length) = counts.entry(gram).or_default();
        *count += 1;
        *length += lengths.iter().sum::<usize>();
    }
    counts.into_values().filter(|&(count, _)| count > 1).map(|(_, length)| length).max().unwrap_or(0)
}

/// Characters of the words that are in n-grams which occurred before.
fn repeated_n_grams(grams: &[u64], lengths: &[usize], n: usize) -> usize {
    let mut seen = HashSet::with_capacity(grams.len());
    let (mut counted, mut sum) = (0, 0);
    for (start, gram) in grams.iter().enumerate() {
        if !seen.insert(gram) {
            sum += lengths[start.max(counted)..start + n].iter().sum::<usize>();
            counted = start + n;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARGS: QualityArgs = QualityArgs { min_words: 10, max_words: 200, min_stop_words: 2 };

    const GOOD: &str = "It was the best of all the evenings that we have had with them, and the rain had stopped.\n\
                        Nobody wanted to be the first one who went home, so the candles burned down to the table.";

    #[test]
    fn each_rule_has_a_text_that_breaks_it_alone() {
        let numbered = |line: &str, n: usize| {
            (0..n).map(|i| format!("{line} {}\n", "x".repeat(i + 3))).collect::<String>()
        };
        assert_eq!(fault(GOOD, &ARGS), None);
        for (text, reason) in [
            ("the cat and the dog".to_owned(), "few words"),
            (format!("{GOOD} ").repeat(6), "many words"),
            ("the a b c d e f g h i and j k".into(), "mean word length"),
            (GOOD.replace(" the ", " #the "), "symbols"),
            (GOOD.replace(' ', "... "), "symbols"),
            (numbered("- the point of this and that", 12), "bullet points"),
            (GOOD.replace(".\n", "...\n"), "ellipses"),
            (
                format!("{GOOD} {}", (0..12).map(|i| format!("{} ", 1000 + i)).collect::<String>()),
                "words without letters",
            ),
            (
                "Words without any glue between them say little, whatever language someone speaks here today"
                    .into(),
                "stop words",
            ),
            (format!("{GOOD}\n{}", GOOD.lines().next().unwrap()), "repeated lines"),
            (format!("Hm.\n\n{GOOD}\n\nHm."), "repeated paragraphs"),
        ] {
            assert_eq!(fault(&text, &ARGS), Some(reason), "{text}");
        }
        let phrase = "to be or not to be, and to be once more and to be forever, whatever they believe";
        assert_eq!(fault(phrase, &ARGS), Some("frequent n-gram"));
        let clause = "all of the people that we have with us";
        let again = format!("{GOOD} So {clause} agree, and then {clause} depart.");
        assert_eq!(fault(&again, &ARGS), Some("repeated n-grams"));
        assert_eq!(
            fault(
                "Wörter ohne Kleber sagen wenig, egal welche Sprache jemand heute hier spricht.",
                &QualityArgs { min_stop_words: 0, ..ARGS }
            ),
            None
        );
    }

    #[test]
    fn n_grams_count_each_character_once() {
        let words: Vec<u64> = "abcabcabcx".bytes().map(u64::from).collect();
        let lengths = [1; 10];
        let top = |n| top_n_gram(&n_grams(&words, n), &lengths, n);
        let repeated = |n| repeated_n_grams(&n_grams(&words, n), &lengths, n);
        assert_eq!((top(2), top(4), top(10), top(11)), (6, 8, 0, 0));
        // The second and third round of a b c, though five bigrams of them are repeated.
        assert_eq!((repeated(2), repeated(10), repeated(11)), (6, 0, 0));
    }
}
