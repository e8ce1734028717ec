//! `printf` and `assert` of device code.

use super::memory::window_of;
use super::warp::Warp;
use super::{Block, CONST_WINDOW, Fault, LOCAL_WINDOW};
use crate::device::cuda::sim::lanes::{WARP, lanes_of};
use crate::device::cuda::sim::program::{MemSpace, Slot};
use crate::device::cuda::sim::report::{ReportKind, Source};

/// Longest string that `printf` prints.
const LONGEST: u64 = 4096;

impl Block<'_> {
    /// A byte at a generic address, if one is there.
    fn byte(&self, address: u64, thread: u32) -> Option<u8> {
        match window_of(address) {
            MemSpace::Local => self.local.byte(thread, address - LOCAL_WINDOW),
            MemSpace::Const => self.launch.constants.get((address - CONST_WINDOW) as usize).copied(),
            MemSpace::Global => {
                let view = self.launch.view;
                let allocation = &view.allocations[view.find(address)?];
                Some(allocation.data.load(address - allocation.base, 1) as u8)
            }
            _ => None,
        }
    }

    fn text(&self, address: u64, thread: u32) -> String {
        let bytes = (0..LONGEST).map_while(|i| self.byte(address + i, thread).filter(|&byte| byte != 0));
        String::from_utf8_lossy(&bytes.collect::<Vec<u8>>()).into_owned()
    }

    fn argument(&self, at: u64, bytes: u64, thread: u32, pc: u32) -> Result<u64, Fault> {
        let mut value = 0;
        for i in 0..bytes {
            let Some(byte) = self.byte(at + i, thread) else {
                let message = "printf has fewer arguments than its format names";
                return Err(self.report(ReportKind::OutOfBounds, pc, Some(thread), message));
            };
            value |= u64::from(byte) << (8 * i);
        }
        Ok(value)
    }

    pub fn print(
        &mut self,
        warp: &Warp,
        dsts: &[Slot],
        srcs: &[Slot],
        pc: u32,
        run: u32,
    ) -> Result<(), Fault> {
        let formats = self.registers.values(srcs[0]);
        let arguments = self.registers.values(srcs[1]);
        let mut counts = [0; WARP];
        for lane in lanes_of(run) {
            let thread = warp.thread(lane);
            let format = self.text(formats[lane], thread);
            let (text, count) = self.format(&format, arguments[lane], thread, pc)?;
            self.printed.push_str(&text);
            counts[lane] = count;
        }
        if let Some(&dst) = dsts.first() {
            self.registers.word(dst).store(run, &counts);
        }
        Ok(())
    }

    /// C's format language, and how many arguments it took.
    fn format(&self, format: &str, mut at: u64, thread: u32, pc: u32) -> Result<(String, u32), Fault> {
        let mut text = String::new();
        let mut count = 0;
        let mut rest = format.chars().peekable();
        while let Some(c) = rest.next() {
            if c != '%' {
                text.push(c);
                continue;
            }
            if rest.next_if_eq(&'%').is_some() {
                text.push('%');
                continue;
            }
            let mut take = |bytes: u64| {
                at = at.next_multiple_of(bytes);
                let value = self.argument(at, bytes, thread, pc);
                at += bytes;
                count += 1;
                value
            };
            let mut spec = Spec::default();
            while let Some(flag) = rest.next_if(|c| "-+ #0".contains(*c)) {
                match flag {
                    '-' => spec.left = true,
                    '+' => spec.plus = true,
                    ' ' => spec.space = true,
                    '#' => spec.alternate = true,
                    _ => spec.zero = true,
                }
            }
            let mut number =
                |rest: &mut std::iter::Peekable<std::str::Chars>| -> Result<Option<usize>, Fault> {
                    if rest.next_if_eq(&'*').is_some() {
                        return Ok(Some(take(4)? as usize));
                    }
                    let mut digits = String::new();
                    while let Some(digit) = rest.next_if(char::is_ascii_digit) {
                        digits.push(digit);
                    }
                    Ok(digits.parse().ok())
                };
            spec.width = number(&mut rest)?.unwrap_or(0);
            if rest.next_if_eq(&'.').is_some() {
                spec.precision = Some(number(&mut rest)?.unwrap_or(0));
            }
            let mut long = 0;
            while let Some(size) = rest.next_if(|c| "hlzjtL".contains(*c)) {
                long += if size == 'h' { 0 } else { 1 };
            }
            let bytes = if long > 0 { 8 } else { 4 };
            let formatted = match rest.next() {
                Some('d' | 'i') => {
                    let value = take(bytes)?;
                    let value = if long > 0 { value as i64 } else { i64::from(value as i32) };
                    spec.integer(value.unsigned_abs().to_string(), value < 0)
                }
                Some('u') => spec.integer(take(bytes)?.to_string(), false),
                Some('x') => {
                    let value = take(bytes)?;
                    let prefix = if spec.alternate && value != 0 { "0x" } else { "" };
                    spec.integer(format!("{prefix}{value:x}"), false)
                }
                Some('X') => {
                    let value = take(bytes)?;
                    let prefix = if spec.alternate && value != 0 { "0X" } else { "" };
                    spec.integer(format!("{prefix}{value:X}"), false)
                }
                Some('o') => spec.integer(format!("{:o}", take(bytes)?), false),
                Some('c') => spec.pad(char::from(take(4)? as u8).to_string()),
                Some('p') => spec.pad(format!("{:#x}", take(8)?)),
                Some('s') => {
                    let address = take(8)?;
                    let most = spec.precision.unwrap_or(usize::MAX);
                    spec.pad(self.text(address, thread).chars().take(most).collect())
                }
                Some(kind @ ('f' | 'F' | 'e' | 'E' | 'g' | 'G')) => {
                    spec.float(f64::from_bits(take(8)?), kind)
                }
                other => {
                    let message = format!("printf does not know `%{}`", other.unwrap_or(' '));
                    return Err(self.report(ReportKind::Assertion, pc, Some(thread), message));
                }
            };
            text.push_str(&formatted);
        }
        Ok((text, count))
    }

    /// `assert`: message, file, line and function come from the kernel itself.
    pub fn assertion(&self, warp: &Warp, srcs: &[Slot], pc: u32, run: u32) -> Fault {
        let lane = run.trailing_zeros() as usize;
        let thread = warp.thread(lane);
        let value = |i: usize| self.registers.values(srcs[i])[lane];
        let condition = self.text(value(0), thread);
        let function = self.text(value(3), thread);
        let message = format!("`{condition}` does not hold in {function}");
        let mut report = self.report(ReportKind::Assertion, pc, Some(thread), message);
        report.source = Some(Source { file: self.text(value(1), thread), line: value(2) as u32 });
        report
    }
}

/// Flags, width and precision of a conversion.
#[derive(Default)]
struct Spec {
    left: bool,
    plus: bool,
    space: bool,
    alternate: bool,
    zero: bool,
    width: usize,
    precision: Option<usize>,
}

impl Spec {
    fn pad(&self, text: String) -> String {
        let missing = self.width.saturating_sub(text.chars().count());
        if self.left { text + &" ".repeat(missing) } else { " ".repeat(missing) + &text }
    }

    fn signed(&self, digits: String, negative: bool, zeros: bool) -> String {
        let sign = match (negative, self.plus, self.space) {
            (true, ..) => "-",
            (_, true, _) => "+",
            (_, _, true) => " ",
            _ => "",
        };
        let missing = self.width.saturating_sub(sign.len() + digits.len());
        let fill = if zeros && !self.left { "0".repeat(missing) } else { String::new() };
        self.pad(format!("{sign}{fill}{digits}"))
    }

    fn integer(&self, digits: String, negative: bool) -> String {
        let missing = self.precision.unwrap_or(1).saturating_sub(digits.len());
        self.signed("0".repeat(missing) + &digits, negative, self.zero && self.precision.is_none())
    }

    fn float(&self, value: f64, kind: char) -> String {
        let magnitude = value.abs();
        let precision = self.precision.unwrap_or(6);
        let digits = if !value.is_finite() {
            let name = if value.is_nan() { "nan" } else { "inf" };
            return self.signed(name.to_owned(), value.is_sign_negative(), false);
        } else {
            match kind.to_ascii_lowercase() {
                'f' => format!("{magnitude:.precision$}"),
                'e' => scientific(magnitude, precision),
                _ => general(magnitude, precision.max(1), self.alternate),
            }
        };
        let digits = if kind.is_ascii_uppercase() { digits.to_uppercase() } else { digits };
        self.signed(digits, value.is_sign_negative(), self.zero)
    }
}

/// `1.5e+03`
fn scientific(value: f64, precision: usize) -> String {
    let text = format!("{value:.precision$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
    format!("{mantissa}e{sign}{digits:0>2}")
}

/// `%g`: the shorter of the two forms, without trailing zeros.
fn general(value: f64, precision: usize, keep: bool) -> String {
    let exact = scientific(value, precision - 1);
    let exponent: i32 = exact.split_once('e').and_then(|(_, exponent)| exponent.parse().ok()).unwrap_or(0);
    let trim = |text: &str| {
        if keep || !text.contains('.') {
            text.to_owned()
        } else {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
    };
    if exponent < -4 || exponent >= precision as i32 {
        let (mantissa, exponent) = exact.split_once('e').unwrap_or((&exact, "+00"));
        format!("{}e{exponent}", trim(mantissa))
    } else {
        let decimals = (precision as i32 - 1 - exponent).max(0) as usize;
        trim(&format!("{value:.decimals$}"))
    }
}
