//! Examples to learn answers from: JSON lines of a prompt and a response, or of a conversation.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::data::IGNORED;
use crate::error::AppError;
use crate::tokenizer::{Characters, Tokenizer};

/// A line of the file. Other keys are passed over.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Response { prompt: String, response: String },
    Chat { messages: Vec<Message> },
}

#[derive(Deserialize)]
struct Message {
    role: Role,
    content: String,
}

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Role {
    System,
    User,
    Assistant,
}

/// A piece of an example's text, and whether it is to be learned.
type Piece = (String, bool);

impl Line {
    /// A prompt and its response stand as they are written. A conversation becomes `User: ...` and `Assistant: ...`
    /// with a line's end after each message. What is learned is followed by the token between documents.
    fn pieces(self) -> Vec<Piece> {
        match self {
            Line::Response { prompt, response } => vec![(prompt, false), (response, true)],
            Line::Chat { messages } => messages.into_iter().flat_map(Message::pieces).collect(),
        }
    }
}

impl Message {
    fn pieces(self) -> [Piece; 2] {
        let learned = self.role == Role::Assistant;
        let name = match self.role {
            Role::System => "System",
            Role::User => "User",
            Role::Assistant => "Assistant",
        };
        // After an answer stands its end, and whatever comes then begins on a line of its own.
        let end = if learned { "" } else { "\n" };
        [(format!("{name}:"), false), (format!(" {}{end}", self.content), learned)]
    }
}

/// A sequence of ids and, for each but the first, whether it is a target.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    ids: Vec<u32>,
    learned: Vec<bool>,
}

impl Example {
    fn new(pieces: Vec<Piece>, tokenizer: &Tokenizer) -> Result<Example, String> {
        let mut example = Example { ids: Vec::new(), learned: Vec::new() };
        for (text, learned) in pieces {
            let mut ids = tokenizer.encode(&text)?;
            ids.extend(tokenizer.separator().filter(|_| learned));
            // An answer without a question still needs a token to come after.
            if example.ids.is_empty() && learned {
                example.push(&[tokenizer.start()], false);
            }
            example.push(&ids, learned);
        }
        match example.learned.contains(&true) {
            true => Ok(example),
            false => Err("has no answer to learn".into()),
        }
    }

    fn push(&mut self, ids: &[u32], learned: bool) {
        self.ids.extend(ids);
        self.learned.resize(self.ids.len(), learned);
    }

    /// Its tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Inputs and targets of `block_size` each. Of a longer example the end is taken, which the answer is in; a
    /// shorter one is filled up with what has no target.
    pub fn block(&self, block_size: usize) -> (Vec<u32>, Vec<u32>) {
        let start = (self.ids.len() - 1).saturating_sub(block_size);
        let mut inputs = self.ids[start..self.ids.len() - 1].to_vec();
        let target = |i: usize| if self.learned[i] { self.ids[i] } else { IGNORED };
        let mut targets: Vec<u32> = (start + 1..self.ids.len()).map(target).collect();
        inputs.resize(block_size, 0);
        targets.resize(block_size, IGNORED);
        (inputs, targets)
    }
}

/// Whether a path is that of such a file.
pub fn is_instructions(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "jsonl")
}

/// The examples of a file, and the tokenizer: without one, that of the characters that occur.
///
/// # Errors
/// A file that cannot be read, a line that is no example, has nothing to learn or characters that are unknown.
pub fn read(path: &Path, tokenizer: Option<&Tokenizer>) -> Result<(Tokenizer, Vec<Example>), AppError> {
    let text = fs::read_to_string(path).map_err(AppError::io("read", path))?;
    let wrong = |line, reason| AppError::Line { path: path.into(), line, reason };
    let mut lines = Vec::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let line: Line = serde_json::from_str(line).map_err(|_| {
            let reason = "not an example: it needs `prompt` and `response`, or `messages` with `role` (system, user or \
                          assistant) and `content`";
            wrong(number, reason.into())
        })?;
        lines.push((number, line.pieces()));
    }
    let tokenizer = tokenizer.cloned().unwrap_or_else(|| {
        let texts = lines.iter().flat_map(|(_, pieces)| pieces).flat_map(|(text, _)| text.chars());
        Tokenizer::Characters(Characters::from(
            texts.chain(['\n']).collect::<std::collections::BTreeSet<char>>(),
        ))
    });
    let example = |(line, pieces)| Example::new(pieces, &tokenizer).map_err(|reason| wrong(line, reason));
    let examples = lines.into_iter().map(example).collect::<Result<_, _>>()?;
    Ok((tokenizer, examples))
}

#[cfg(test)]
mod tests {
    use tilewright::{Device, no_grad};

    use super::*;
    use crate::data::{Blocks, Corpus, Draw, Random};
    use crate::hugging_face::tests::{fixture, gpt2};
    use crate::tests::scratch;

    /// The text that is learned, and that of all.
    fn texts(example: &Example, tokenizer: &Tokenizer) -> (String, String) {
        let (inputs, targets) = example.block(100);
        let learned: Vec<u32> = targets.into_iter().filter(|&id| id != IGNORED).collect();
        let all: Vec<u32> = inputs[..example.ids.len() - 1].to_vec();
        (tokenizer.decode(&learned), tokenizer.decode(&all))
    }

    #[test]
    fn answers_alone_are_learned() {
        let path = scratch("instructions").join("x.jsonl");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let lines = [
            r#"{"prompt": "2+2=", "response": "4", "source": "school"}"#,
            "",
            r#"{"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Bye"},
                {"role": "assistant", "content": "So long"}]}"#,
            r#"{"prompt": "", "response": "abc"}"#,
        ];
        fs::write(&path, lines.map(|line| line.replace('\n', " ")).join("\n")).unwrap();
        let (tokenizer, examples) = read(&path, Some(&Tokenizer::Bytes)).unwrap();
        let found: Vec<(String, String)> =
            examples.iter().map(|example| texts(example, &tokenizer)).collect();
        let end = "<|endoftext|>";
        assert_eq!(found[0], (format!("4{end}"), "2+2=4".into()));
        let all = format!("System: Be brief.\nUser: Hi\nAssistant: Hello{end}User: Bye\nAssistant: So long");
        assert_eq!(found[1], (format!(" Hello{end} So long{end}"), all));
        assert_eq!(found[2], (format!("abc{end}"), format!("{end}abc")));
        assert_eq!(read(&path, None).unwrap().0.len(), 28, "characters, and a line's end");

        // The end of what is too long, and nothing learned of the filling.
        let (inputs, targets) = examples[0].block(2);
        assert_eq!((inputs, targets), (vec![b'='.into(), b'4'.into()], vec![b'4'.into(), 256]));
        let (inputs, targets) = examples[0].block(6);
        assert_eq!(inputs[5], 0);
        assert_eq!(targets, [IGNORED, IGNORED, IGNORED, b'4'.into(), 256, IGNORED]);

        let error = |line: &str| {
            fs::write(&path, format!("\n{line}")).unwrap();
            read(&path, None).unwrap_err().to_string()
        };
        for line in ["{", r#"{"prompt": "a"}"#, r#"{"messages": [{"role": "robot", "content": "a"}]}"#] {
            assert!(error(line).contains("x.jsonl, line 2: not an example: it needs `prompt`"), "{line}");
        }
        let silent = r#"{"messages": [{"role": "user", "content": "a"}]}"#;
        assert!(error(silent).ends_with("line 2: has no answer to learn"));
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn the_loss_counts_answers_only() {
        let folder = scratch("instructions-loss");
        let path = folder.join("x.jsonl");
        let line = |i: usize| format!("{{\"prompt\": \"{i} + 1 = \", \"response\": \"{}\"}}\n", i + 1);
        fs::write(&path, (0..20).map(line).collect::<String>()).unwrap();
        let tokenizer = Tokenizer::load(&fixture().join("tokenizer.json")).unwrap();
        let corpus = Corpus::read_with(&path, &tokenizer).unwrap();
        assert_eq!((corpus.train.len(), corpus.val.len()), (18, 2));
        corpus.check_length(&path, 16).unwrap();
        let tokens: usize = read(&path, Some(&tokenizer)).unwrap().1.iter().map(Example::len).sum();
        assert_eq!(corpus.size(), format!("20 examples ({tokens} tokens)"));
        let model = gpt2(&Device::Cpu);
        let blocks = Blocks::new(&corpus.train, 6, 16);
        let batch = blocks.random(&mut Random::new(1, Draw::Train), &Device::Cpu).unwrap();
        let loss = no_grad(|| model.loss(&batch)).unwrap().to_scalar::<f32>().unwrap();
        // The same from the logits of each answer's tokens, one at a time.
        let rows = |tensor: &tilewright::Tensor| tensor.to_vec2::<u32>().unwrap();
        let (mut sum, mut count) = (0.0, 0);
        for (inputs, targets) in rows(&batch.inputs).iter().zip(rows(&batch.targets)) {
            for (at, target) in targets.into_iter().enumerate().filter(|&(_, target)| target != IGNORED) {
                let context =
                    tilewright::Tensor::from_slice(&inputs[..=at], (1, at + 1), &Device::Cpu).unwrap();
                let logits =
                    no_grad(|| model.next_logits(&context)?.log_softmax(1)?.to_vec::<f32>()).unwrap();
                sum -= logits[target as usize];
                count += 1;
            }
        }
        // One or two digits and the end.
        assert!((12..=18).contains(&count), "{count}");
        assert!((loss - sum / count as f32).abs() < 1e-5, "{loss}, {}", sum / count as f32);

        fs::write(&path, line(1)).unwrap();
        let error = Corpus::read_with(&path, &tokenizer).err().unwrap().to_string();
        assert!(
            error.ends_with("x.jsonl: holds 1 example; at least 2 are needed, the last tenth for validation"),
            "{error}"
        );
    }
}
