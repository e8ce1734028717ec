//! What a run tells: the log, the progress bar, the loss plot.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use plotters::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::AppError;

/// One training step: a line of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Updates made, this one included.
    pub step: usize,
    /// Mean loss of the step's batch, before the update.
    pub loss: f32,
    pub lr: f64,
    /// Norm of the whole gradient, before clipping.
    pub grad_norm: f32,
    pub tokens_per_second: f64,
    pub elapsed_s: f64,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<Evaluation>,
}

/// Mean losses over `eval_iters` batches of each split, after the update.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    pub train_loss: f32,
    pub val_loss: f32,
}

/// `log.jsonl`, a line each step, on disk as soon as it is known.
pub struct Log {
    file: File,
    path: PathBuf,
}

impl Log {
    /// Goes on with a log that had so many bytes: what came after them is dropped. Returns the steps that it holds.
    ///
    /// # Errors
    /// A file that is shorter, or a line of it that is no step.
    pub fn resume(path: PathBuf, bytes: u64) -> Result<(Self, Vec<Step>), AppError> {
        let open = || {
            let mut file = File::options().read(true).write(true).create(true).truncate(false).open(&path)?;
            if file.metadata()?.len() > bytes {
                file.set_len(bytes)?;
            }
            let mut text = String::new();
            (&mut file).take(bytes).read_to_string(&mut text)?;
            Ok((file, text))
        };
        let (file, text) = open().map_err(AppError::io("write", &path))?;
        if text.len() as u64 != bytes {
            return Err(AppError::contents(
                &path,
                format!("shorter than the {bytes} bytes that its run has written"),
            ));
        }
        let step = |(line, text)| {
            let wrong =
                |e: serde_json::Error| AppError::Line { path: path.clone(), line, reason: e.to_string() };
            serde_json::from_str(text).map_err(wrong)
        };
        let steps = (1..).zip(text.lines()).map(step).collect::<Result<_, _>>()?;
        Ok((Log { file, path }, steps))
    }

    /// Has all lines on disk; returns how many bytes they are.
    pub fn sync(&self) -> Result<u64, AppError> {
        let length = self.file.sync_data().and_then(|()| Ok(self.file.metadata()?.len()));
        length.map_err(AppError::io("write", &self.path))
    }

    pub fn write(&mut self, step: &Step) -> Result<(), AppError> {
        let line = serde_json::to_string(step).map_err(io::Error::from);
        line.and_then(|line| writeln!(self.file, "{line}")).map_err(AppError::io("write", &self.path))
    }
}

/// A line for whoever watches, on standard error. That nobody may be there is no error.
pub fn note(line: fmt::Arguments<'_>) {
    // The tests' many short runs have nobody who watches.
    if !cfg!(test) {
        let _ = writeln!(io::stderr(), "{line}");
    }
}

/// The progress bar; without a terminal, a line for every evaluation.
pub struct Progress {
    bar: ProgressBar,
    steps: usize,
    interval: usize,
}

impl Progress {
    pub fn new(steps: usize, interval: usize) -> Self {
        let bar = ProgressBar::new(steps as u64);
        let template = "{bar:30} {pos}/{len}  {msg}  {eta} left";
        bar.set_style(
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        Progress { bar, steps, interval }
    }

    pub fn show(&self, step: &Step) {
        if let Some(Evaluation { train_loss, val_loss }) = step.evaluation {
            let line = format!(
                "step {}/{}: train loss {train_loss:.4}, val loss {val_loss:.4}, {:.0} tokens/s, {:.0} s",
                step.step, self.steps, step.tokens_per_second, step.elapsed_s
            );
            match self.bar.is_hidden() {
                true => note(format_args!("{line}")),
                false => self.bar.println(line),
            }
        }
        if step.step.is_multiple_of(self.interval) || step.step == self.steps {
            self.bar.set_position(step.step as u64);
            self.bar.set_message(format!("loss {:.4}  {:.0} tokens/s", step.loss, step.tokens_per_second));
        }
    }

    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// What the plot needs of a run.
#[derive(Default)]
pub struct History {
    losses: Vec<(usize, f32)>,
    validations: Vec<(usize, f32)>,
}

impl History {
    pub fn of(steps: &[Step]) -> Self {
        let mut history = History::default();
        steps.iter().for_each(|step| history.push(step));
        history
    }

    pub fn push(&mut self, step: &Step) {
        self.losses.push((step.step, step.loss));
        if let Some(evaluation) = step.evaluation {
            self.validations.push((step.step, evaluation.val_loss));
        }
    }

    /// Writes the loss per `unit` over the steps as an SVG picture.
    pub fn plot(&self, title: &str, unit: &str, path: &Path) -> Result<(), AppError> {
        let mut picture = String::new();
        self.draw(title, unit, &mut picture)
            .map_err(|e| AppError::contents(path, format!("cannot draw the plot: {e}")))?;
        fs::write(path, picture).map_err(AppError::io("write", path))
    }

    fn draw(&self, title: &str, unit: &str, picture: &mut String) -> Result<(), Box<dyn std::error::Error>> {
        let values = || self.losses.iter().chain(&self.validations).map(|&(_, loss)| loss);
        let (low, high) =
            (values().fold(f32::INFINITY, f32::min), values().fold(f32::NEG_INFINITY, f32::max));
        if !(low.is_finite() && high.is_finite()) {
            return Err("there are no finite losses".into());
        }
        // One step, or one loss throughout, still needs axes of some length.
        let margin = 0.05 * (high - low).max(0.1);
        let steps = self.losses.last().map_or(1, |&(step, _)| step).max(1);

        let root = SVGBackend::with_string(picture, (800, 480)).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(title, ("sans-serif", 20))
            .margin(16)
            .x_label_area_size(48)
            .y_label_area_size(64)
            .build_cartesian_2d(0..steps, low - margin..high + margin)?;
        let font = ("sans-serif", 16);
        chart
            .configure_mesh()
            .x_desc("step")
            .y_desc(format!("loss (nats per {unit})"))
            .label_style(font)
            .axis_desc_style(font)
            .draw()?;

        let (train, val) = (RGBColor(130, 170, 220), RGBColor(200, 60, 30));
        chart
            .draw_series(LineSeries::new(self.losses.iter().copied(), train))?
            .label("training, each batch")
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], train));
        chart
            .draw_series(LineSeries::new(self.validations.iter().copied(), val.stroke_width(2)))?
            .label("validation")
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], val.stroke_width(2)));
        chart.draw_series(self.validations.iter().map(|&point| Circle::new(point, 3, val.filled())))?;
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .label_font(font)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK)
            .draw()?;
        root.present()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::scratch;

    fn step(step: usize, loss: f32, val_loss: Option<f32>) -> Step {
        let evaluation = val_loss.map(|val_loss| Evaluation { train_loss: loss, val_loss });
        Step { step, loss, lr: 1e-3, grad_norm: 0.5, tokens_per_second: 1e4, elapsed_s: 0.1, evaluation }
    }

    #[test]
    fn a_log_line_has_the_documented_keys() {
        let line = serde_json::to_string(&step(3, 2.5, None)).unwrap();
        let expected =
            r#"{"step":3,"loss":2.5,"lr":0.001,"grad_norm":0.5,"tokens_per_second":10000.0,"elapsed_s":0.1}"#;
        assert_eq!(line, expected);
        let line = serde_json::to_string(&step(4, 2.5, Some(2.0))).unwrap();
        assert!(line.ends_with(r#""elapsed_s":0.1,"train_loss":2.5,"val_loss":2.0}"#), "{line}");
    }

    #[test]
    fn the_plot_shows_both_curves_and_survives_short_runs() {
        let path = Path::new("loss.svg");
        let mut history = History::default();
        let mut picture = String::new();
        assert!(history.plot("empty", "byte", path).unwrap_err().to_string().contains("no finite losses"));
        history.push(&step(1, 4.0, Some(4.0)));
        history.draw("one step", "byte", &mut picture).unwrap();
        for i in 2..=100 {
            history.push(&step(i, 4.0 / i as f32, (i % 50 == 0).then_some(1.0)));
        }
        picture.clear();
        history.draw("a <run>", "byte", &mut picture).unwrap();
        assert!(picture.starts_with("<svg") && picture.trim_end().ends_with("</svg>"));
        assert!(
            picture.contains("a &lt;run&gt;")
                && picture.contains("validation")
                && picture.contains("per byte")
        );
        assert_eq!(picture.matches("<circle").count(), 3);
    }

    #[test]
    fn a_log_goes_on_after_the_bytes_of_a_checkpoint() {
        let directory = scratch("log");
        let path = directory.join("log.jsonl");
        let mut log = Log::resume(path.clone(), 0).unwrap().0;
        log.write(&step(1, 2.0, None)).unwrap();
        log.write(&step(2, 1.5, Some(1.75))).unwrap();
        let bytes = log.sync().unwrap();
        log.write(&step(3, 0.1, None)).unwrap();
        fs::write(&path, fs::read_to_string(&path).unwrap() + "{\"step\":4,\"lo").unwrap();
        let (mut log, steps) = Log::resume(path.clone(), bytes).unwrap();
        assert_eq!(steps, [step(1, 2.0, None), step(2, 1.5, Some(1.75))]);
        log.write(&step(3, 1.0, None)).unwrap();
        let lines = fs::read_to_string(&path).unwrap();
        assert_eq!(lines.lines().count(), 3);
        assert!(lines.lines().last().unwrap().contains("\"loss\":1.0"));

        let error = |bytes| Log::resume(path.clone(), bytes).err().unwrap().to_string();
        assert!(error(10_000).contains("log.jsonl: shorter than the 10000 bytes"), "{}", error(10_000));
        assert!(error(5).contains("log.jsonl, line 1: "), "{}", error(5));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_stops_the_log_with_an_error() {
        let mut log = Log::resume(PathBuf::from("/dev/full"), 0).unwrap().0;
        let error = log.write(&step(1, 1.0, None)).unwrap_err().to_string();
        assert!(error.starts_with("cannot write /dev/full: No space left"), "{error}");
    }
}
