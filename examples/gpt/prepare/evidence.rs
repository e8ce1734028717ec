//! Curation on a corpus that is made here, with junk, duplicates and private data planted in it: what of that is found
//! (recall), and how much of what is taken out was planted (precision). What is not planted is made to be mistaken:
//! documents that share a third of their sentences, lists, short texts, numbers that look like others.

use std::collections::HashSet;

use super::tests::args;
use super::*;
use crate::data::{Draw, Random};
use crate::tests::scratch;

struct Planter {
    random: Random,
    words: Vec<String>,
    made: usize,
}

impl Planter {
    fn new() -> Self {
        let syllables = ["ba", "den", "ki", "lor", "mus", "na", "pel", "ri", "sto", "tu", "ven", "wa"];
        let pairs = syllables.iter().flat_map(|a| syllables.iter().map(move |b| format!("{a}{b}")));
        let triples = pairs.clone().flat_map(|pair| syllables.iter().map(move |c| format!("{pair}{c}")));
        Planter { random: Random::new(17, Draw::Sample), words: pairs.chain(triples).collect(), made: 0 }
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.random.below(from.len())]
    }

    fn word(&mut self) -> String {
        match self.random.below(4) {
            0 => self
                .pick(&["the", "be", "to", "of", "and", "that", "have", "with", "a", "in", "it", "was"])
                .into(),
            _ => self.words[self.random.below(self.words.len())].clone(),
        }
    }

    fn sentence(&mut self) -> String {
        let words: Vec<String> = (0..8 + self.random.below(7)).map(|_| self.word()).collect();
        words.join(" ") + self.pick(&[". ", ". ", "? ", ".\n", ".\n\n"])
    }

    fn sentences(&mut self, n: usize) -> String {
        (0..n).map(|_| self.sentence()).collect()
    }

    /// A document of 90 words and more.
    fn document(&mut self) -> String {
        let n = 11 + self.random.below(20);
        self.sentences(n).trim().to_owned()
    }

    /// Good documents that rules may mistake.
    fn hard(&mut self, other: &str) -> String {
        self.made += 1;
        let (a, b) = (self.random.below(9000) + 1000, self.random.below(90) + 10);
        let own = self.document();
        match self.made % 6 {
            // A third of another's text.
            0 => format!("{} {own}", &other[..other.len() / 3]),
            1 => format!(
                "{own}\n- {}\n- {}\n- {}",
                self.sentence().trim(),
                self.sentence().trim(),
                self.sentence().trim()
            ),
            2 => format!(
                "{own} It was version {b}.4.{a}.1.2 (section 9.7.14.5) of 2024-03-{b} at 10:20:{b}, on 127.0.0.1, see std::fmt::Error."
            ),
            3 => format!(
                "{own} Order 7{a}{a}{a}, part 555-{a}, about 0.{a}{a}{a}{a} and 1{a} - 2{a} of the @{b}th."
            ),
            4 => self.sentences(7).trim().to_owned(),
            _ => format!(
                "{own} The password: is never a word that anybody tokenizes, the secret = ingredient{b}."
            ),
        }
    }

    fn junk(&mut self) -> String {
        self.made += 1;
        let lines = |line: &mut dyn FnMut(usize) -> String| (0..30).map(line).collect::<String>();
        match self.made % 9 {
            0 => self.sentences(2),
            1 => self.document().replace(' ', " # "),
            2 => lines(&mut |_| format!("- {}\n", self.sentence().trim())),
            3 => lines(&mut |_| format!("{}...\n", self.sentence().trim().trim_end_matches('.'))),
            4 => lines(&mut |i| format!("{} {} {} {}\n", i * 37, i * i, self.word(), 1000 - i)),
            5 => (0..120).map(|_| self.words[self.random.below(1700)].clone() + " ").collect(),
            6 => (0..80).map(|_| (0..5).map(|_| self.word()).collect::<String>() + " ").collect(),
            7 => format!("{}\n{}", self.document(), format!("{}\n", self.sentence().trim()).repeat(30)),
            _ => {
                let phrase = self.sentence();
                (0..12).map(|_| format!("{} {}", phrase.trim(), self.word())).collect::<Vec<_>>().join(" ")
            }
        }
    }

    /// Up to three words are others, or a sentence is more: from 0.77 of all shingles up are then shared.
    fn nearly(&mut self, document: &str) -> String {
        let mut words: Vec<String> = document.split(' ').map(str::to_owned).collect();
        match self.random.below(4) {
            0 => return format!("{document} {}", self.sentence().trim()),
            edits => (0..edits).for_each(|_| {
                let at = self.random.below(words.len());
                words[at] = format!("{}x", self.word());
            }),
        }
        words.join(" ")
    }

    fn characters(&mut self, from: &str, n: usize) -> String {
        let from: Vec<char> = from.chars().collect();
        (0..n).map(|_| from[self.random.below(from.len())]).collect()
    }

    /// Something private, which nobody has: examples' domains and addresses, numbers for fiction.
    fn private(&mut self) -> String {
        self.made += 1;
        let (digits, mixed) = ("0123456789", "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789");
        let number = |planter: &mut Planter, n| planter.characters(digits, n);
        match self.made % 12 {
            0 | 1 => format!("{}.{}@kiba.example.org", self.words[self.made % 100].clone(), number(self, 2)),
            2 => format!("+44 20 7946 0{}", number(self, 3)),
            3 => format!("(202) 555-01{}", number(self, 2)),
            4 => format!("203.0.113.{}", 1 + self.random.below(254)),
            5 => format!("2001:db8::{}:8a2e:{}", number(self, 3), number(self, 4)),
            6 | 7 => {
                let number = format!("4{}", number(self, 14));
                let sum = |last: usize| {
                    let digits = number.bytes().map(|byte| (byte - b'0') as usize).chain([last]);
                    let doubled = digits
                        .enumerate()
                        .map(|(i, d)| if i % 2 == 0 { [0, 2, 4, 6, 8, 1, 3, 5, 7, 9][d] } else { d });
                    doubled.sum::<usize>()
                };
                let last = (0..10).find(|&last| sum(last) % 10 == 0).unwrap();
                let plain = format!("{number}{last}");
                let groups = [&plain[..4], &plain[4..8], &plain[8..12], &plain[12..]];
                if self.made.is_multiple_of(2) { plain } else { groups.join(" ") }
            }
            8 => format!("AKIA{}", self.characters("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 16)),
            9 => format!("ghp_{}", self.characters(mixed, 36)),
            10 => format!("sk-{}", self.characters(mixed, 40)),
            _ => format!("7a{}", self.characters("0123456789abcdef", 30)),
        }
    }

    /// `secret` in a sentence of its kind.
    fn with_private(&mut self, document: &str, secret: &str) -> String {
        let lead = match secret.strip_prefix("7a") {
            Some(_) => self.pick(&["api_key = ", "\"client_secret\": \"", "export TOKEN="]),
            None => self.pick(&["It was about ", "To have it write to ", "See: ", "That is "]),
        };
        format!("{document} {lead}{secret}, and {}", self.sentence().trim())
    }
}

/// What a document is and so what should become of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Plant {
    Good,
    Private(String),
    Drop(usize),
}

#[test]
fn curation_finds_what_was_planted_and_little_else() {
    let root = scratch("evidence");
    let (input, list) = (root.join("unused.txt"), root.join("list.txt"));
    fs::write(&input, "").unwrap();
    fs::write(&list, "forbidden\nbad.example\n").unwrap();
    let mut planter = Planter::new();
    let mut corpus: Vec<(String, Plant)> = Vec::new();
    let mut good: Vec<String> = vec![planter.document()];
    for i in 0..3000 {
        let other = good[planter.random.below(good.len())].clone();
        let (text, plant) = match i % 20 {
            0 | 1 => (planter.junk(), Plant::Drop(QUALITY)),
            // The same after normalisation, however its lines end.
            2 => (other.replace('\n', "\r\n") + "\n", Plant::Drop(DUPLICATES)),
            3 => (other, Plant::Drop(DUPLICATES)),
            4 | 5 => (planter.nearly(&other), Plant::Drop(NEAR_DUPLICATES)),
            6 => {
                let word = planter.pick(&["Forbidden ", "https://www.bad.example/x ", "FORBIDDEN, "]);
                (planter.document().replacen(' ', &format!(" {word}"), 1), Plant::Drop(BLOCKLIST))
            }
            7..=9 => {
                let (document, secret) = (planter.document(), planter.private());
                (planter.with_private(&document, &secret), Plant::Private(secret))
            }
            10..=14 => (planter.hard(&other), Plant::Good),
            _ => (planter.document(), Plant::Good),
        };
        if plant == Plant::Good {
            good.push(text.clone());
        }
        corpus.push((text, plant));
    }
    // The copies' first original.
    corpus.insert(0, (good[0].clone(), Plant::Good));

    let flags = format!("--curate --memory-mb 8 --blocklist {}", list.display());
    let args = args(&input, &root.join("out"), &flags);
    let mut job = Job::start(&args, BATCH_BYTES).unwrap();
    let dropped = |job: &Job| {
        job.report.stages.iter().map(|stage| stage.dropped.values().sum::<u64>()).collect::<Vec<_>>()
    };
    // Of each stage: planted, found, and taken out in all.
    let mut counts = [[0usize; 3]; STAGES.len()];
    let mut private = [0usize; 3];
    for (text, plant) in &corpus {
        let before = dropped(&job);
        let examined = job.examine(text.clone());
        let kept = job.admit(examined).unwrap();
        let stage = dropped(&job).iter().zip(&before).position(|(after, before)| after > before);
        if let Some(stage) = stage {
            counts[stage][2] += 1;
        }
        match plant {
            Plant::Drop(planted) => {
                counts[*planted][0] += 1;
                counts[*planted][1] += usize::from(stage == Some(*planted));
            }
            Plant::Private(secret) => {
                private[0] += 1;
                private[1] += usize::from(kept.is_some_and(|text| !text.contains(secret.as_str())));
            }
            Plant::Good => {}
        }
    }
    private[2] = job.report.masked.values().sum::<u64>() as usize;

    let rows = [BLOCKLIST, QUALITY, DUPLICATES, NEAR_DUPLICATES].map(|stage| (STAGES[stage], counts[stage]));
    println!("{:<16} {:>8} {:>6} {:>6} {:>7} {:>9}", "", "planted", "found", "taken", "recall", "precision");
    let mut weak = HashSet::new();
    for (name, [planted, found, taken]) in rows.into_iter().chain([("private data", private)]) {
        let (recall, precision) = (found as f64 / planted as f64, found as f64 / taken as f64);
        println!("{name:<16} {planted:>8} {found:>6} {taken:>6} {recall:>7.3} {precision:>9.3}");
        assert!(planted >= 100, "{name}: {planted} are too few to tell");
        if recall.min(precision) < 0.95 {
            weak.insert(name);
        }
    }
    assert!(weak.is_empty(), "recall or precision below 0.95: {weak:?}");
}
