//! TensorBoard's event files: TFRecords, each an `Event` of tensorflow/core/util/event.proto in protobuf's encoding. These few
//! fields of it are written out here; a protobuf library would need a compiler of schemas for them.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::AppError;
use crate::report::Step;

/// A name that TensorBoard looks for.
pub const FILE: &str = "events.out.tfevents.gpt";

/// The curves and samples of a run.
pub struct Events {
    file: File,
    path: PathBuf,
}

impl Events {
    /// Goes on with a file that had so many bytes: what came after them is dropped.
    pub fn resume(path: PathBuf, bytes: u64) -> Result<Self, AppError> {
        let open = || {
            let file = File::options().append(true).create(true).open(&path)?;
            if file.metadata()?.len() > bytes {
                file.set_len(bytes)?;
            }
            Ok(file)
        };
        let mut events = Events { file: open().map_err(AppError::io("write", &path))?, path };
        if bytes == 0 {
            let version = message(|event| event.bytes(3, b"brain.Event:2"));
            events.write(0, &version)?;
        }
        Ok(events)
    }

    /// Has all events on disk; returns how many bytes they are.
    pub fn sync(&self) -> Result<u64, AppError> {
        let length = self.file.sync_data().and_then(|()| Ok(self.file.metadata()?.len()));
        length.map_err(AppError::io("write", &self.path))
    }

    pub fn push(&mut self, step: &Step) -> Result<(), AppError> {
        let evaluation = step.evaluation;
        let scalars = [
            ("loss/train, each batch", Some(step.loss as f64)),
            ("loss/train", evaluation.map(|evaluation| evaluation.train_loss as f64)),
            ("loss/validation", evaluation.map(|evaluation| evaluation.val_loss as f64)),
            ("optimizer/learning rate", Some(step.lr)),
            ("optimizer/gradient norm", Some(step.grad_norm as f64).filter(|norm| norm.is_finite())),
            ("optimizer/loss scale", step.loss_scale),
            ("speed/tokens per second", Some(step.tokens_per_second)),
            ("speed/model FLOPs utilization", step.mfu),
            ("memory/MiB", Some(step.memory_bytes as f64 / (1 << 20) as f64)),
        ];
        let summary = message(|summary| {
            for (tag, value) in scalars {
                let Some(value) = value else { continue };
                summary.message(1, |entry| {
                    entry.bytes(1, tag.as_bytes());
                    entry.float(2, value as f32);
                });
            }
            if let Some(sample) = &step.sample {
                summary.message(1, |entry| text(entry, "sample", sample));
            }
        });
        self.write(step.step as u64, &message(|event| event.bytes(5, &summary.0)))
    }

    /// An event of now, with what else it has.
    fn write(&mut self, step: u64, what: &Message) -> Result<(), AppError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let event = message(|event| {
            event.double(1, now);
            if step > 0 {
                event.number(2, step);
            }
            event.0.extend(&what.0);
        });
        record(&mut self.file, &event.0).map_err(AppError::io("write", &self.path))
    }
}

/// A text, for the plugin that shows them: a tensor of one string.
fn text(entry: &mut Message, tag: &str, text: &str) {
    const DT_STRING: u64 = 7;
    entry.bytes(1, tag.as_bytes());
    entry.message(8, |tensor| {
        tensor.number(1, DT_STRING);
        tensor.message(2, |shape| shape.message(2, |dim| dim.number(1, 1)));
        // As Markdown it is code, which keeps its line ends.
        tensor.bytes(8, format!("```\n{text}\n```").as_bytes());
    });
    entry.message(9, |metadata| metadata.message(1, |plugin| plugin.bytes(1, b"text")));
}

/// A message in protobuf's encoding: fields, each a key, its number and its kind in a varint, and a value.
struct Message(Vec<u8>);

fn message(fill: impl FnOnce(&mut Message)) -> Message {
    let mut message = Message(Vec::new());
    fill(&mut message);
    message
}

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value > 0x7F {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, field: u64, kind: u64) {
        self.varint(field << 3 | kind);
    }

    fn number(&mut self, field: u64, value: u64) {
        self.key(field, 0);
        self.varint(value);
    }

    fn double(&mut self, field: u64, value: f64) {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
    }

    fn float(&mut self, field: u64, value: f32) {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.key(field, 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
    }

    fn message(&mut self, field: u64, fill: impl FnOnce(&mut Message)) {
        self.bytes(field, &message(fill).0);
    }
}

/// A TFRecord: the length, its checksum, the data, and theirs. In one piece, so that a run that is killed leaves no half.
fn record(file: &mut impl Write, data: &[u8]) -> io::Result<()> {
    let length = (data.len() as u64).to_le_bytes();
    let checksum =
        |data: &[u8]| crc32c::crc32c(data).rotate_right(15).wrapping_add(0xA282_EAD8).to_le_bytes();
    file.write_all(&[&length[..], &checksum(&length), data, &checksum(data)].concat())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::report::tests::step;
    use crate::tests::scratch;

    #[test]
    fn records_are_tensorflows() {
        let mut file = Vec::new();
        record(&mut file, &[0; 24]).unwrap();
        // The length 24 and its checksum, with which every event file of TensorFlow begins.
        assert_eq!(file[..12], [24, 0, 0, 0, 0, 0, 0, 0, 0xA3, 0x7F, 0x4B, 0x22]);
        assert_eq!(file.len(), 12 + 24 + 4);
        let entry = message(|entry| {
            entry.number(1, 300);
            entry.message(2, |inner| inner.bytes(1, b"ab"));
            entry.float(2, 1.0);
        });
        assert_eq!(entry.0, [8, 0xAC, 2, 18, 4, 10, 2, b'a', b'b', 21, 0, 0, 0x80, 0x3F]);
    }

    /// What TensorBoard itself finds in a file that went on where a save was made.
    #[test]
    fn tensorboard_reads_the_events() {
        let directory = scratch("tensorboard");
        let path = directory.join(FILE);
        let mut events = Events::resume(path.clone(), 0).unwrap();
        events.push(&step(1, 2.5, None)).unwrap();
        let bytes = events.sync().unwrap();
        events.push(&step(2, 99.0, None)).unwrap();
        let mut events = Events::resume(path, bytes).unwrap();
        let sample = Some("a\u{e9}\nb".to_owned());
        events.push(&Step { sample, ..step(2, 1.5, Some(1.25)) }).unwrap();
        let python = std::env::var("TILEWRIGHT_PYTHON").unwrap_or_else(|_| "python3".into());
        let script = "import sys\n\
            from tensorboard.backend.event_processing.event_accumulator import EventAccumulator\n\
            events = EventAccumulator(sys.argv[1]).Reload()\n\
            for tag in sorted(events.Tags()['scalars']): print(tag, [(e.step, e.value) for e in events.Scalars(tag)])\n\
            for tag in events.Tags()['tensors']: print(tag, [(e.step, e.tensor_proto.string_val[0].decode()) for e in \
            events.Tensors(tag)])";
        let output = Command::new(&python).args(["-c", script]).arg(&*directory).output();
        let output = match output {
            Ok(output) if !String::from_utf8_lossy(&output.stderr).contains("ModuleNotFoundError") => output,
            _ => {
                let _ = writeln!(
                    io::stderr(),
                    "NOT RUN: {python} has no tensorboard (TILEWRIGHT_PYTHON names another)"
                );
                return;
            }
        };
        let (found, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        for line in [
            "loss/train, each batch [(1, 2.5), (2, 1.5)]",
            "loss/validation [(2, 1.25)]",
            "memory/MiB [(1, 3.0), (2, 3.0)]",
            "optimizer/gradient norm [(1, 0.5), (2, 0.5)]",
            "speed/tokens per second [(1, 10000.0), (2, 10000.0)]",
            "sample [(2, '```\\na\u{e9}\\nb\\n```')]",
        ] {
            assert!(found.lines().any(|found| found == line), "{line} is not in\n{found}{errors}");
        }
    }
}
