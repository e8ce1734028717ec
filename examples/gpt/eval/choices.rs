//! Multiple-choice questions in HellaSwag's format (Zellers et al. 2019).

use std::fs;
use std::path::Path;

use serde::{Deserialize, Deserializer};
use tilewright::Device;

use super::loss::Rows;
use crate::error::AppError;
use crate::model::Gpt;
use crate::report::{count, note};
use crate::tokenizer::Tokenizer;

/// A line of the file. Other keys are passed over.
#[derive(Deserialize)]
pub struct Question {
    #[serde(rename = "ctx")]
    context: String,
    endings: Vec<String>,
    /// The number of the right ending, from 0. Some copies have it as text.
    #[serde(deserialize_with = "number_or_text")]
    label: usize,
    #[serde(skip)]
    line: u64,
}

fn number_or_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Label {
        Number(usize),
        Text(String),
    }
    match Label::deserialize(deserializer)? {
        Label::Number(number) => Ok(number),
        Label::Text(text) => text.parse().map_err(serde::de::Error::custom),
    }
}

impl Question {
    /// The questions of a file, of which there is at least one.
    pub fn read(path: &Path) -> Result<Vec<Question>, AppError> {
        let text = fs::read_to_string(path).map_err(AppError::io("read", path))?;
        let mut questions = Vec::new();
        for (line, text) in (1..).zip(text.lines()).filter(|(_, text)| !text.trim().is_empty()) {
            let wrong = |reason| AppError::Line { path: path.into(), line, reason };
            let question: Question =
                serde_json::from_str(text).map_err(|e| wrong(format!("not a question: {e}")))?;
            let Question { label, endings, .. } = &question;
            if *label >= endings.len() {
                return Err(wrong(format!(
                    "its label is {label}, and it has {}",
                    count(endings.len(), "ending")
                )));
            }
            questions.push(Question { line, ..question });
        }
        match questions.is_empty() {
            true => Err(AppError::contents(path, "holds no questions")),
            false => Ok(questions),
        }
    }
}

/// The first `shots` questions of a file with their right endings, to be put before others.
pub fn shots(path: &Path, shots: usize) -> Result<String, AppError> {
    let questions = Question::read(path)?;
    if questions.len() < shots {
        let reason = format!("holds {}, and --shots is {shots}", count(questions.len(), "question"));
        return Err(AppError::contents(path, reason));
    }
    let shot = |question: &Question| format!("{} {}\n\n", question.context, question.endings[question.label]);
    Ok(questions[..shots].iter().map(shot).collect())
}

/// What went wrong with a question.
pub enum Failure {
    Question { line: u64, reason: String },
    Tensor(tilewright::Error),
}

impl Failure {
    pub fn at(self, path: &Path) -> AppError {
        match self {
            Failure::Question { line, reason } => AppError::Line { path: path.into(), line, reason },
            Failure::Tensor(error) => error.into(),
        }
    }
}

/// How many questions were answered right.
#[derive(Default)]
pub struct Score {
    questions: usize,
    by_sum: usize,
    by_mean: usize,
}

impl Score {
    pub fn report(&self) -> String {
        let n = self.questions as f64;
        let line = |right: usize| {
            let share = right as f64 / n;
            format!("{share:.4} +- {:.4}", (share * (1.0 - share) / n).sqrt())
        };
        format!(
            "questions         {}\naccuracy by sum   {}\naccuracy by mean  {} (of the log-likelihood over the ending's tokens)\n",
            self.questions,
            line(self.by_sum),
            line(self.by_mean)
        )
    }
}

pub struct Choices<'a> {
    pub model: &'a Gpt,
    pub tokenizer: &'a Tokenizer,
    pub device: &'a Device,
    /// What stands before every question.
    pub shots: &'a str,
}

impl Choices<'_> {
    pub fn answer(&self, questions: &[Question]) -> Result<Score, Failure> {
        let mut score = Score::default();
        for question in questions {
            // Of each ending, the loss and its mean over the tokens.
            let losses = self.losses(question)?;
            let lowest = |key: &dyn Fn(&(f64, f64)) -> f64| {
                (0..losses.len()).min_by(|&a, &b| key(&losses[a]).total_cmp(&key(&losses[b])))
            };
            score.questions += 1;
            score.by_sum += usize::from(lowest(&|(sum, _)| *sum) == Some(question.label));
            score.by_mean += usize::from(lowest(&|(_, mean)| *mean) == Some(question.label));
            if score.questions.is_multiple_of(100) {
                note(format_args!("{} of {} questions", score.questions, questions.len()));
            }
        }
        Ok(score)
    }

    fn losses(&self, question: &Question) -> Result<Vec<(f64, f64)>, Failure> {
        let wrong = |reason| Failure::Question { line: question.line, reason };
        let encode = |text: &str| self.tokenizer.encode(text).map_err(wrong);
        let mut context = encode(&format!("{}{}", self.shots, question.context))?;
        if context.is_empty() {
            context.push(self.tokenizer.start());
        }
        let most = self.model.block_size();
        let mut texts = Vec::with_capacity(question.endings.len());
        for ending in &question.endings {
            let ending = encode(&format!(" {ending}"))?;
            // The context's last token at least must be there; what does not fit is its beginning.
            if ending.len() > most {
                let reason = format!("an ending has {} tokens, and the model's context {most}", ending.len());
                return Err(wrong(reason));
            }
            let kept = context.len().min(most + 1 - ending.len());
            texts.push((kept, [&context[context.len() - kept..], &ending].concat()));
        }
        let columns = texts.iter().map(|(_, ids)| ids.len() - 1).max().unwrap_or(1);
        let mut rows = Rows::new(columns);
        texts.iter().for_each(|(context, ids)| rows.push(ids, context - 1));
        let losses = rows.losses(self.model, self.device).map_err(Failure::Tensor)?;
        let sums = losses.iter().map(|row| row.iter().map(|&loss| f64::from(loss)).sum::<f64>());
        Ok(sums.zip(&texts).map(|(sum, (context, ids))| (sum, sum / (ids.len() - context) as f64)).collect())
    }
}
