//! From files to documents, one at a time and in a fixed order.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};
use std::str::Utf8Error;
use std::sync::Arc;

use flate2::bufread::MultiGzDecoder;
use memchr::memmem::{self, Finder};
use ruzstd::decoding::BlockDecodingStrategy;
use ruzstd::decoding::FrameDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use crate::data::files_below;
use crate::error::AppError;

/// The longest line of JSON that is read, and the longest document.
const LONGEST: usize = 16 << 20;

/// What of a file is looked at to tell text from other things.
const SNIFFED: usize = 8 << 10;

#[derive(Clone, Debug, PartialEq, clap::Args, Serialize, Deserialize)]
pub struct InputArgs {
    /// Text files, JSON lines (.jsonl, .ndjson), either of them compressed (.gz, .zst), and folders of them; files of a
    /// folder that are hidden or not text are passed over
    #[arg(required = true, value_name = "FILE|DIR")]
    pub inputs: Vec<PathBuf>,
    /// The field of a JSON line that holds the text
    #[arg(long, value_name = "NAME", default_value = "text")]
    pub text_field: String,
    /// What separates the documents of a text file, such as '\n\n' or '<|endoftext|>'; \n is a line's end. Without it,
    /// a file is one document
    #[arg(long, value_name = "TEXT")]
    pub split_on: Option<String>,
    /// Text files' documents that are longer are cut, if possible at an empty line, else at a line's end
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 10, value_parser = clap::value_parser!(u32).range(64..=LONGEST as i64))]
    pub document_bytes: u32,
    /// Read bytes that are not UTF-8 as U+FFFD; otherwise they are an error
    #[arg(long)]
    pub lossy: bool,
}

/// A file to read.
struct Source {
    path: PathBuf,
    bytes: u64,
    /// Found in a folder, and so passed over if it is not text.
    in_folder: bool,
}

/// Documents that were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct InputPosition {
    /// Files that are read to their end.
    pub files: usize,
    /// Documents of the one after them.
    pub documents: usize,
}

/// The documents of all files.
pub struct Input {
    options: Arc<InputArgs>,
    sources: Vec<Source>,
    position: InputPosition,
    file: Option<FileDocuments>,
    /// Files of folders that were passed over, by reason.
    pub passed_over: BTreeMap<String, u64>,
}

impl Input {
    pub fn open(options: &InputArgs) -> Result<Input, AppError> {
        let mut options = options.clone();
        options.split_on = options.split_on.map(|text| text.replace("\\n", "\n"));
        if options.split_on.as_ref().is_some_and(|text| text.is_empty() || text.len() > SNIFFED) {
            let reason = "must have from 1 to 8192 bytes".into();
            return Err(AppError::Argument { argument: "--split-on", reason });
        }
        let mut sources = Vec::new();
        for path in &options.inputs {
            let metadata = fs::metadata(path).map_err(AppError::io("read", path))?;
            let in_folder = metadata.is_dir();
            let files =
                if in_folder { files_below(path, |path| !is_data(path))? } else { vec![path.clone()] };
            for path in files {
                let bytes = fs::metadata(&path).map_err(AppError::io("read", &path))?.len();
                sources.push(Source { path, bytes, in_folder });
            }
        }
        let position = InputPosition::default();
        Ok(Input { options: Arc::new(options), sources, position, file: None, passed_over: BTreeMap::new() })
    }

    pub fn files(&self) -> usize {
        self.sources.len()
    }

    /// A hash of the files' names and lengths.
    pub fn files_hash(&self) -> u64 {
        let names: Vec<String> =
            self.sources.iter().map(|s| format!("{}\0{}\0", s.path.display(), s.bytes)).collect();
        XxHash3_64::oneshot(names.concat().as_bytes())
    }

    pub fn position(&self) -> InputPosition {
        self.position
    }

    /// Moves on to `position`, which must not lie before this one's.
    pub fn skip_to(&mut self, position: InputPosition) -> Result<(), AppError> {
        self.position = InputPosition { files: position.files, documents: 0 };
        self.file = None;
        while self.position != position && self.next()?.is_some() {}
        if self.position == position {
            return Ok(());
        }
        let path = &self.sources[position.files.min(self.sources.len() - 1)].path;
        Err(AppError::contents(path, "holds fewer documents than when the interrupted run read it"))
    }

    /// # Errors
    /// A file that cannot be read or decompressed, a line that is not a JSON object with the text's field, text that is
    /// not UTF-8: each with its file, and with its line where there is one.
    pub fn next(&mut self) -> Result<Option<String>, AppError> {
        loop {
            let mut file = match self.file.take() {
                Some(file) => file,
                None => match self.sources.get(self.position.files) {
                    None => return Ok(None),
                    Some(source) => FileDocuments::open(source, &self.options)?,
                },
            };
            if file.binary {
                *self.passed_over.entry("not text".into()).or_default() += 1;
            } else if let Some(document) = file.next()? {
                self.position.documents += 1;
                self.file = Some(file);
                return Ok(Some(document));
            }
            self.position = InputPosition { files: self.position.files + 1, documents: 0 };
        }
    }
}

enum Compression {
    None,
    Gzip,
    Zstd,
}

/// What a file's name says of its contents and of their compression.
fn extensions(path: &Path) -> (String, Compression) {
    let extension = |path: &Path| path.extension().unwrap_or_default().to_string_lossy().into_owned();
    let compression = match extension(path).as_str() {
        "gz" => Compression::Gzip,
        "zst" => Compression::Zstd,
        plain => return (plain.to_owned(), Compression::None),
    };
    (extension(&path.with_extension("")), compression)
}

/// Of a folder's files, those that hold no text for a model, by their names.
fn is_data(path: &Path) -> bool {
    let (kind, _) = extensions(path);
    ["lock", "svg", "json", "csv", "ipynb", "bin", "parquet"].contains(&kind.as_str())
}

/// The documents of one file.
struct FileDocuments {
    path: PathBuf,
    reader: Box<dyn BufRead + Send + Sync>,
    options: Arc<InputArgs>,
    /// What separates documents, if something does.
    separator: Option<Finder<'static>>,
    json_lines: bool,
    binary: bool,
    /// Bytes that are read but not given out start at `at`.
    buffer: Vec<u8>,
    at: usize,
    ended: bool,
    /// Lines given out.
    lines: u64,
}

impl FileDocuments {
    fn open(source: &Source, options: &Arc<InputArgs>) -> Result<Self, AppError> {
        let path = source.path.clone();
        let file = File::open(&path).map_err(AppError::io("read", &path))?;
        let file = BufReader::with_capacity(64 << 10, file);
        let (kind, compression) = extensions(&path);
        let mut reader: Box<dyn BufRead + Send + Sync> = match compression {
            Compression::Gzip => Box::new(BufReader::new(MultiGzDecoder::new(file))),
            Compression::Zstd => Box::new(BufReader::new(ZstdReader { source: file, frame: None })),
            Compression::None => Box::new(file),
        };
        let mut start = Vec::new();
        (&mut reader).take(SNIFFED as u64).read_to_end(&mut start).map_err(AppError::io("read", &path))?;
        let binary = source.in_folder && !is_text(&start);
        let reader = Box::new(Cursor::new(start).chain(reader));
        let json_lines = ["jsonl", "ndjson"].contains(&kind.as_str());
        let separator = options.split_on.as_deref().map(|text| Finder::new(text).into_owned());
        let options = options.clone();
        Ok(FileDocuments {
            path,
            reader,
            options,
            separator,
            json_lines,
            binary,
            buffer: Vec::new(),
            at: 0,
            ended: false,
            lines: 0,
        })
    }

    fn next(&mut self) -> Result<Option<String>, AppError> {
        if self.json_lines { self.next_json() } else { self.next_text() }
    }

    /// Has `wanted` bytes in the buffer, or all that are left.
    fn fill(&mut self, wanted: usize) -> Result<(), AppError> {
        if self.buffer.len() - self.at >= wanted || self.ended {
            return Ok(());
        }
        self.buffer.drain(..self.at);
        self.at = 0;
        let missing = (wanted - self.buffer.len()) as u64;
        let read = (&mut self.reader).take(missing).read_to_end(&mut self.buffer);
        self.ended = (read.map_err(AppError::io("read", &self.path))? as u64) < missing;
        Ok(())
    }

    fn next_text(&mut self) -> Result<Option<String>, AppError> {
        let longest = self.options.document_bytes as usize;
        let separator_bytes = self.separator.as_ref().map_or(0, |finder| finder.needle().len());
        // Refilled seldom, since what is left then moves to the front.
        if self.buffer.len() - self.at < longest + separator_bytes {
            self.fill(8 * longest)?;
        }
        let left = &self.buffer[self.at..];
        if left.is_empty() {
            return Ok(None);
        }
        let (text, used) = match self.separator.as_ref().and_then(|finder| finder.find(left)) {
            Some(at) if at <= longest => (&left[..at], at + separator_bytes),
            _ if left.len() <= longest => (left, left.len()),
            _ => {
                let cut = cut(&left[..longest]);
                (&left[..cut], cut)
            }
        };
        let text = self.utf8(text)?;
        self.lines += left[..used].iter().filter(|&&byte| byte == b'\n').count() as u64;
        self.at += used;
        Ok(Some(text))
    }

    fn utf8(&self, bytes: &[u8]) -> Result<String, AppError> {
        if self.options.lossy {
            return Ok(String::from_utf8_lossy(bytes).into_owned());
        }
        let text = std::str::from_utf8(bytes).map_err(|e| {
            let lines = bytes[..e.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count();
            self.line(lines as u64, "not UTF-8 text; --lossy reads such bytes as U+FFFD")
        })?;
        Ok(text.to_owned())
    }

    /// An error in the line that is `ahead` of the next.
    fn line(&self, ahead: u64, reason: impl Into<String>) -> AppError {
        AppError::Line { path: self.path.clone(), line: self.lines + ahead + 1, reason: reason.into() }
    }

    fn next_json(&mut self) -> Result<Option<String>, AppError> {
        loop {
            let mut line = Vec::new();
            let read = (&mut self.reader).take(LONGEST as u64 + 1).read_until(b'\n', &mut line);
            match read.map_err(AppError::io("read", &self.path))? {
                0 => return Ok(None),
                n if n > LONGEST => return Err(self.line(0, format!("longer than {LONGEST} bytes"))),
                _ => {}
            }
            let text = self.utf8(&line)?;
            if text.trim().is_empty() {
                self.lines += 1;
                continue;
            }
            let value: serde_json::Value =
                serde_json::from_str(&text).map_err(|e| self.line(0, format!("not JSON: {e}")))?;
            let field = &self.options.text_field;
            let text = match value.get(field) {
                Some(serde_json::Value::String(text)) => text.clone(),
                Some(_) => return Err(self.line(0, format!("its field \"{field}\" is not a string"))),
                None => {
                    let reason =
                        format!("without the field \"{field}\"; --text-field names the one with the text");
                    return Err(self.line(0, reason));
                }
            };
            self.lines += 1;
            return Ok(Some(text));
        }
    }
}

/// Whether a file that begins like this is text, as far as can be told.
fn is_text(start: &[u8]) -> bool {
    // A character may be cut off where the start ends.
    let cut = |e: Utf8Error| e.error_len().is_none() && start.len() == SNIFFED;
    !start.contains(&0) && std::str::from_utf8(start).map_or_else(cut, |_| true)
}

/// Where to cut text that goes on: behind its last empty line, else its last line's end, else its last character.
fn cut(text: &[u8]) -> usize {
    let behind = |end: &[u8]| memmem::rfind(text, end).map(|at| at + end.len());
    let character = || {
        let start = (0..text.len()).rev().find(|&at| text[at] & 0xc0 != 0x80);
        // Bytes that are no text at all may be cut anywhere.
        start.filter(|&at| at > 0).unwrap_or(text.len())
    };
    behind(b"\n\n").or_else(|| behind(b"\n")).unwrap_or_else(character)
}

/// The frames of a zstd file, one after the other.
struct ZstdReader<R> {
    source: R,
    frame: Option<FrameDecoder>,
}

impl<R: BufRead> Read for ZstdReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match &mut self.frame {
                Some(frame) if frame.can_collect() > 0 => return frame.read(buffer),
                Some(frame) if !frame.is_finished() => {
                    frame
                        .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
                        .map_err(io::Error::other)?;
                }
                _ if self.source.fill_buf()?.is_empty() => return Ok(0),
                frame => match frame.get_or_insert_default().reset(&mut self.source) {
                    Ok(()) => {}
                    Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                        length,
                        ..
                    })) => {
                        io::copy(&mut (&mut self.source).take(length.into()), &mut io::sink())?;
                    }
                    Err(e) => return Err(io::Error::other(e)),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::write::GzEncoder;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;
    use crate::tests::scratch;

    fn options(inputs: &[&Path]) -> InputArgs {
        InputArgs {
            inputs: inputs.iter().map(|path| path.to_path_buf()).collect(),
            text_field: "text".into(),
            split_on: None,
            document_bytes: 64 << 10,
            lossy: false,
        }
    }

    fn read(options: &InputArgs) -> Result<Vec<String>, AppError> {
        let mut input = Input::open(options)?;
        let mut documents = Vec::new();
        while let Some(document) = input.next()? {
            documents.push(document);
        }
        Ok(documents)
    }

    #[test]
    fn every_kind_of_file_gives_its_documents() {
        let root = scratch("input-kinds");
        let gz = |text: &str| {
            let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(text.as_bytes()).unwrap();
            encoder.finish().unwrap()
        };
        let zst = |text: &str| compress_to_vec(text.as_bytes(), CompressionLevel::Fastest);
        // A skippable frame: magic, length, contents.
        let skippable = [&0x184d2a50u32.to_le_bytes()[..], &3u32.to_le_bytes(), b"abc"].concat();
        for (path, bytes) in [
            ("a.txt", b"one\n".to_vec()),
            ("b.jsonl", b"{\"text\": \"two\", \"id\": 1}\n\n{\"text\": \"thr\\u00e9e\"}".to_vec()),
            ("c/d.txt.gz", [gz("fo"), gz("ur")].concat()),
            ("c/e.jsonl.zst", [zst("{\"text\": \"fi"), skippable, zst("ve\"}\n")].concat()),
            ("f.json", b"{}".to_vec()),
            ("f.csv.gz", gz("a,b")),
            ("g.dat", b"\0\x01".to_vec()),
            ("h.txt", b"caf\xe9".to_vec()),
            (".hidden", b"x".to_vec()),
            ("i.txt", b"".to_vec()),
        ] {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        assert_eq!(read(&options(&[&root])).unwrap(), ["one\n", "two", "thrée", "four", "five"]);
        let mut input = Input::open(&options(&[&root])).unwrap();
        while input.next().unwrap().is_some() {}
        assert_eq!(input.passed_over, BTreeMap::from([("not text".to_owned(), 2)]));
    }

    #[test]
    fn a_position_is_where_reading_goes_on() {
        let root = scratch("input-position");
        fs::write(root.join("a.txt"), "0\n\n1\n\n2").unwrap();
        fs::write(root.join("b.jsonl"), "{\"text\":\"3\"}\n{\"text\":\"4\"}\n").unwrap();
        let mut options = options(&[&root]);
        options.split_on = Some("\\n\\n".into());
        let all = read(&options).unwrap();
        assert_eq!(all, ["0", "1", "2", "3", "4"]);
        for done in 0..=all.len() {
            let mut input = Input::open(&options).unwrap();
            (0..done).for_each(|_| drop(input.next().unwrap()));
            let mut again = Input::open(&options).unwrap();
            again.skip_to(input.position()).unwrap();
            let rest: Vec<String> = std::iter::from_fn(|| again.next().unwrap()).collect();
            assert_eq!(rest, all[done..]);
        }
        let message =
            Input::open(&options).unwrap().skip_to(InputPosition { files: 1, documents: 3 }).unwrap_err();
        assert!(message.to_string().contains("b.jsonl: holds fewer documents"), "{message}");
    }

    #[test]
    fn long_texts_are_cut_where_it_hurts_least() {
        let root = scratch("input-cut");
        let path = root.join("a.txt");
        let mut options = options(&[&path]);
        options.document_bytes = 64;
        for (text, first) in [
            (format!("{}\n\n{}\n{}", "a".repeat(20), "b".repeat(20), "c".repeat(90)), 22),
            (format!("{}\n{}", "a".repeat(40), "b".repeat(90)), 41),
            ("a".repeat(200), 63),
            ("é".repeat(100), 62),
            ("🦀".repeat(100), 60),
        ] {
            fs::write(&path, &text).unwrap();
            let documents = read(&options).unwrap();
            assert_eq!(documents[0].len(), first, "{text}");
            assert!(documents.iter().all(|document| document.len() <= 64));
            assert_eq!(documents.concat(), text);
        }
        // The same whatever the buffer holds.
        let text: String = (0..5000).map(|i| format!("line {i} of a text\n")).collect();
        fs::write(&path, &text).unwrap();
        assert_eq!(read(&options).unwrap().concat(), text);
    }

    /// However long the file, no more than a few documents of it are in memory.
    #[test]
    fn a_file_is_read_in_pieces() {
        let root = scratch("input-pieces");
        let path = root.join("a.txt.zst");
        let text = "A line that is there again and again.\n".repeat(200_000);
        fs::write(&path, compress_to_vec(text.as_bytes(), CompressionLevel::Fastest)).unwrap();
        let mut options = options(&[&path]);
        options.document_bytes = 1000;
        let mut input = Input::open(&options).unwrap();
        let (mut held, mut read) = (0, 0);
        while let Some(document) = input.next().unwrap() {
            read += document.len();
            held = held.max(input.file.as_ref().unwrap().buffer.capacity());
        }
        assert_eq!(read, text.len());
        assert!(held <= 4 * 8 * 1000, "{held} bytes of {read} were in memory");
    }

    #[test]
    fn bad_input_is_an_error_with_its_file_and_line() {
        let root = scratch("input-bad");
        let error = |name: &str, bytes: &[u8]| {
            let path = root.join(name);
            fs::write(&path, bytes).unwrap();
            read(&options(&[&path])).unwrap_err().to_string()
        };
        assert!(
            error("a.txt", b"one\ntwo\ncaf\xe9")
                .ends_with("a.txt, line 3: not UTF-8 text; --lossy reads such bytes as U+FFFD")
        );
        let good = b"{\"text\": \"a\"}\n".to_vec();
        let after = |line: &[u8]| [&good[..], b"\n", line].concat();
        let message = error("a.jsonl", &after(b"{\"body\": \"a\"}"));
        assert!(message.ends_with(
            "a.jsonl, line 3: without the field \"text\"; --text-field names the one with the text"
        ));
        assert!(
            error("b.jsonl", &after(b"{\"text\": 3}")).contains("line 3: its field \"text\" is not a string")
        );
        assert!(error("c.jsonl", &after(b"{\"text\": ")).contains("c.jsonl, line 3: not JSON: "));
        assert!(error("d.jsonl", &after(b"{\"text\": \"\xff\"}")).contains("line 3: not UTF-8"));
        assert!(error("e.jsonl", &vec![b'x'; LONGEST + 2]).contains("line 1: longer than 16777216 bytes"));
        assert!(error("f.txt.gz", b"no gzip").starts_with("cannot read "));
        assert!(error("g.txt.zst", b"no zstd").starts_with("cannot read "));
        let whole = compress_to_vec(&b"some text to be cut"[..], CompressionLevel::Fastest);
        assert!(error("h.txt.zst", &whole[..whole.len() - 6]).starts_with("cannot read "));
        assert!(read(&options(&[&root.join("none")])).unwrap_err().to_string().starts_with("cannot read "));
        let mut empty = options(&[&root]);
        empty.split_on = Some(String::new());
        assert!(read(&empty).unwrap_err().to_string().starts_with("--split-on: must have"));

        let mut lossy = options(&[&root.join("a.txt")]);
        lossy.lossy = true;
        assert_eq!(read(&lossy).unwrap(), ["one\ntwo\ncaf\u{fffd}"]);
    }
}
