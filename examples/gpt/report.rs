//! What a run tells: the log, the progress bar, the loss plot.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use plotters::prelude::*;
use serde::{Deserialize, Serialize};

use crate::checkpoint::nan_if_null;
use crate::error::AppError;
use crate::files;

/// One training step: a line of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Updates made, this one included.
    pub step: usize,
    /// Mean loss of the step's batch, before the update.
    pub loss: f32,
    pub lr: f64,
    /// Norm of the whole gradient, before clipping; infinite or NaN, and null in the file, if it overflowed.
    #[serde(deserialize_with = "nan_if_null")]
    pub grad_norm: f32,
    /// Why there was no update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<Skip>,
    /// What the loss was multiplied by, in float16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<f64>,
    pub tokens_per_second: f64,
    /// The share of what the device can do at best.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mfu: Option<f64>,
    /// Of the device, held and cached.
    pub memory_bytes: u64,
    pub elapsed_s: f64,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<Evaluation>,
    /// What the model then wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<String>,
}

/// Why a step is left out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Skip {
    /// A gradient of f16 is not finite.
    Overflow,
    /// The loss stands out.
    Loss,
    /// The gradient's norm does.
    Gradient,
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

/// A number of things, with the ending that it asks for: `1 file`, `2 files`.
pub fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
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

/// What a run has been so far.
pub struct History {
    steps: Vec<Step>,
}

/// A line of a chart: what it is of, its colour, its points, and whether each has a dot.
struct Curve {
    label: &'static str,
    color: RGBColor,
    points: Vec<(usize, f64)>,
    dots: bool,
}

const BLUE: RGBColor = RGBColor(130, 170, 220);
const RED: RGBColor = RGBColor(200, 60, 30);

/// More points than a chart has pixels only make it large.
const POINTS: usize = 1500;

impl History {
    pub fn of(steps: Vec<Step>) -> Self {
        History { steps }
    }

    pub fn push(&mut self, step: Step) {
        self.steps.push(step);
    }

    /// A curve of what `value` finds in the steps, thinned out to means of neighbours.
    fn curve(&self, label: &'static str, color: RGBColor, value: impl Fn(&Step) -> Option<f64>) -> Curve {
        let points = self.steps.iter().filter_map(|step| Some((step.step, value(step)?)));
        let points: Vec<_> = points.filter(|(_, value)| value.is_finite()).collect();
        let mean = |part: &[(usize, f64)]| {
            (part[part.len() - 1].0, part.iter().map(|(_, value)| value).sum::<f64>() / part.len() as f64)
        };
        let points: Vec<_> = points.chunks(points.len().div_ceil(POINTS).max(1)).map(mean).collect();
        Curve { label, color, dots: false, points }
    }

    fn losses(&self) -> [Curve; 2] {
        let validation = |step: &Step| step.evaluation.map(|evaluation| evaluation.val_loss as f64);
        [
            self.curve("training, each batch", BLUE, |step| Some(step.loss as f64)),
            Curve { dots: true, ..self.curve("validation", RED, validation) },
        ]
    }

    /// Writes the loss per `unit` over the steps as an SVG picture.
    pub fn plot(&self, title: &str, unit: &str, path: &Path) -> Result<(), AppError> {
        let picture = draw(title, &format!("loss (nats per {unit})"), &self.losses())
            .map_err(|e| AppError::contents(path, format!("cannot draw the plot: {e}")))?;
        files::write(path, picture)
    }

    /// Writes a page that shows the run and needs no other file; `facts` are what stands above the charts.
    pub fn report(
        &self,
        title: &str,
        unit: &str,
        facts: &[(&str, String)],
        path: &Path,
    ) -> Result<(), AppError> {
        let of = |name: &'static str, value: fn(&Step) -> Option<f64>| [self.curve(name, BLUE, value)];
        let charts: [(&str, String, &[Curve]); 6] = [
            ("Loss", format!("nats per {unit}"), &self.losses()),
            ("Learning rate", String::new(), &of("of each step", |step| Some(step.lr))),
            (
                "Norm of the gradient",
                "before clipping".into(),
                &of("of each step", |step| Some(step.grad_norm as f64)),
            ),
            (
                "Throughput",
                "tokens per second".into(),
                &of("of each step", |step| Some(step.tokens_per_second)),
            ),
            (
                "Model FLOPs utilization",
                "% of the device's peak".into(),
                &of("by llm.c's formula", |step| Some(100.0 * step.mfu?)),
            ),
            (
                "Memory of the device",
                "MiB".into(),
                &of("held and cached", |step| Some(step.memory_bytes as f64 / (1 << 20) as f64)),
            ),
        ];
        let mut page = format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>{0}</title>\n<style>body {{ font-family: \
             sans-serif; max-width: 52em; margin: 2em auto }} td {{ padding-right: 2em }} pre {{ white-space: pre-wrap; \
             background: #f4f4f4; padding: 1em }}</style>\n<h1>{0}</h1>\n<table>\n",
            escape(title)
        );
        for (name, value) in facts {
            page += &format!("<tr><td>{}<td>{}\n", escape(name), escape(value));
        }
        page += "</table>\n";
        for (name, unit, curves) in &charts {
            // A device without a known peak has no utilization.
            if curves.iter().any(|curve| !curve.points.is_empty()) {
                let picture = draw(name, unit, curves);
                page +=
                    &picture.map_err(|e| AppError::contents(path, format!("cannot draw a chart: {e}")))?;
            }
        }
        let samples = self.steps.iter().rev().filter_map(|step| Some((step.step, step.sample.as_ref()?)));
        for (step, sample) in samples {
            page += &format!("<h2>Sample after step {step}</h2>\n<pre>{}</pre>\n", escape(sample));
        }
        files::write(path, page)
    }
}

/// Text as HTML shows it.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// An SVG picture of curves over the steps.
fn draw(title: &str, unit: &str, curves: &[Curve]) -> Result<String, Box<dyn std::error::Error>> {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let (low, high) = points().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), (_, value)| {
        (low.min(*value), high.max(*value))
    });
    if points().next().is_none() {
        return Err("there are no finite values".into());
    }
    // One step, or one value throughout, still needs axes of some length.
    let margin = if high > low { 0.05 * (high - low) } else { (0.1 * high.abs()).max(0.005) };
    let last = points().map(|(step, _)| *step).max().unwrap_or(1).max(1);
    let mut picture = String::new();
    let root = SVGBackend::with_string(&mut picture, (800, 480)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(48)
        .y_label_area_size(80)
        .build_cartesian_2d(0..last, low - margin..high + margin)?;
    let font = ("sans-serif", 16);
    chart
        .configure_mesh()
        .x_desc("step")
        .y_desc(unit)
        .y_label_formatter(&|value| short(*value))
        .label_style(font)
        .axis_desc_style(font)
        .draw()?;
    for &Curve { label, color, ref points, dots } in curves {
        let style = color.stroke_width(if dots { 2 } else { 1 });
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style))?
            .label(label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
        if dots {
            chart.draw_series(points.iter().map(|&point| Circle::new(point, 3, color.filled())))?;
        }
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .label_font(font)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()?;
    root.present()?;
    drop((chart, root));
    Ok(picture)
}

/// A number of an axis, in few digits.
fn short(value: f64) -> String {
    match value.abs() {
        0.01..1e5 => format!("{:.3}", value).trim_end_matches('0').trim_end_matches('.').to_owned(),
        size if size < 1e-12 => "0".into(),
        _ => format!("{value:.1e}"),
    }
}

#[cfg(test)]
pub mod tests {
    use std::fs;

    use super::*;
    use crate::tests::scratch;

    pub fn step(step: usize, loss: f32, val_loss: Option<f32>) -> Step {
        let evaluation = val_loss.map(|val_loss| Evaluation { train_loss: loss, val_loss });
        Step {
            step,
            loss,
            lr: 1e-3,
            grad_norm: 0.5,
            skipped: None,
            loss_scale: None,
            tokens_per_second: 1e4,
            mfu: None,
            memory_bytes: 3 << 20,
            elapsed_s: 0.1,
            evaluation,
            sample: None,
        }
    }

    #[test]
    fn a_log_line_has_the_documented_keys() {
        let line = serde_json::to_string(&step(3, 2.5, None)).unwrap();
        let expected = r#"{"step":3,"loss":2.5,"lr":0.001,"grad_norm":0.5,"tokens_per_second":10000.0,"memory_bytes":3145728,"elapsed_s":0.1}"#;
        assert_eq!(line, expected);
        let line = serde_json::to_string(&step(4, 2.5, Some(2.0))).unwrap();
        assert!(line.ends_with(r#""elapsed_s":0.1,"train_loss":2.5,"val_loss":2.0}"#), "{line}");
        let overflow = Step { skipped: Some(Skip::Overflow), loss_scale: Some(8.0), ..step(5, 2.5, None) };
        let line = serde_json::to_string(&Step { grad_norm: f32::INFINITY, ..overflow }).unwrap();
        assert!(line.contains(r#""grad_norm":null,"skipped":"overflow","loss_scale":8.0,"#), "{line}");
        let read: Step = serde_json::from_str(&line).unwrap();
        assert!(read.grad_norm.is_nan() && read.skipped == Some(Skip::Overflow));
    }

    #[test]
    fn the_plot_shows_both_curves_and_survives_short_runs() {
        let directory = scratch("plot");
        let path = directory.join("loss.svg");
        let mut history = History::of(vec![]);
        let error = history.plot("empty", "byte", &path).unwrap_err().to_string();
        assert!(error.contains("no finite values"), "{error}");
        history.push(step(1, 4.0, Some(4.0)));
        history.plot("one step", "byte", &path).unwrap();
        for i in 2..=100 {
            history.push(step(i, 4.0 / i as f32, (i % 50 == 0).then_some(1.0)));
        }
        history.plot("a <run>", "byte", &path).unwrap();
        let picture = fs::read_to_string(&path).unwrap();
        assert!(picture.starts_with("<svg") && picture.trim_end().ends_with("</svg>"));
        assert!(["a &lt;run&gt;", "validation", "per byte"].iter().all(|text| picture.contains(text)));
        assert_eq!(picture.matches("<circle").count(), 3);
    }

    #[test]
    fn the_report_has_every_chart_and_every_sample() {
        let directory = scratch("report");
        let path = directory.join("report.html");
        let mut history = History::of(vec![]);
        for i in 1..=5000 {
            let sample = (i % 2500 == 0).then(|| format!("<b> & {i}"));
            history.push(Step { mfu: Some(0.5), sample, ..step(i, 4.0, (i % 2500 == 0).then_some(1.0)) });
        }
        history.report("r & d", "byte", &[("device", "cpu <1>".into())], &path).unwrap();
        let page = fs::read_to_string(&path).unwrap();
        assert_eq!(page.matches("<svg").count(), 6);
        for text in [
            "r &amp; d",
            "cpu &lt;1&gt;",
            "utilization",
            "<pre>&lt;b&gt; &amp; 2500</pre>",
            "after step 5000",
        ] {
            assert!(page.contains(text), "{text}");
        }
        assert!(
            !page.contains("http://")
                || page.matches("http://").count() == page.matches("http://www.w3.org/2000/svg").count()
        );
        assert!(page.len() < 1 << 20, "{} bytes", page.len());
        // Without what is not known.
        History::of(vec![step(1, 1.0, None)]).report("short", "byte", &[], &path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap().matches("<svg").count(), 5);
    }

    #[test]
    fn axes_have_short_numbers() {
        assert_eq!(
            [0.0, 1e-14, 0.25, 12000.0, 2e-4, 2.5e6].map(short),
            ["0", "0", "0.25", "12000", "2.0e-4", "2.5e6"]
        );
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
