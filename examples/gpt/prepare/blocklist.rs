//! Documents with words or addresses that a list forbids.

use std::fs;
use std::path::Path;

use aho_corasick::AhoCorasick;

use crate::error::AppError;

/// Words, phrases, domains and addresses, without regard to case.
pub struct Blocklist(AhoCorasick);

impl Blocklist {
    /// Reads one entry from each line; empty lines and those that begin with `#` are none.
    pub fn read(path: &Path) -> Result<Blocklist, AppError> {
        let text = fs::read_to_string(path).map_err(AppError::io("read", path))?;
        let entries = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let entries: Vec<String> = entries.map(str::to_lowercase).collect();
        if entries.is_empty() {
            return Err(AppError::contents(path, "holds no entry: each line is a word or an address"));
        }
        let automaton = AhoCorasick::new(entries)
            .map_err(|e| AppError::contents(path, format!("not a list that can be searched for: {e}")))?;
        Ok(Blocklist(automaton))
    }

    /// Whether `text` has an entry that stands by itself: no letter or digit goes on at either end.
    pub fn hits(&self, text: &str) -> bool {
        let text = text.to_lowercase();
        self.0.find_overlapping_iter(&text).any(|found| {
            let before = text[..found.start()].chars().next_back();
            let after = text[found.end()..].chars().next();
            ![before, after].into_iter().flatten().any(char::is_alphanumeric)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::scratch;

    #[test]
    fn entries_match_as_whole_words_and_addresses() {
        let directory = scratch("blocklist");
        let path = directory.join("list.txt");
        fs::write(&path, "# bad things\n\nbadword\nvery bad\nevil.example\nÄrger\n").unwrap();
        let list = Blocklist::read(&path).unwrap();
        for text in
            ["a BADWORD.", "badword", "it was very bad", "see https://www.evil.example/page", "viel ÄRGER!"]
        {
            assert!(list.hits(text), "{text}");
        }
        for text in ["badwords", "abadword", "very  bad", "devil.example", "evil.examples", ""] {
            assert!(!list.hits(text), "{text}");
        }
        fs::write(&path, "# nothing\n").unwrap();
        let message = Blocklist::read(&path).err().unwrap().to_string();
        assert!(
            message.ends_with("list.txt: holds no entry: each line is a word or an address"),
            "{message}"
        );
    }
}
