//! Thousands of operands against NVIDIA's own assembler: `folded.txt` holds what ptxas 13.0.88 folds
//! instructions on constants to. A line is an instruction, the widths of its operands, that of its result,
//! the operands and the result, separated by `|`; `folded.py` makes it.

use std::collections::BTreeMap;

use crate::harness::lanes;

#[test]
fn as_ptxas_folds_them() {
    let mut groups = BTreeMap::<_, Vec<(Vec<u64>, u64)>>::new();
    for line in include_str!("folded.txt").lines() {
        let fields: Vec<&str> = line.split('|').collect();
        let [body, widths, out, operands, result] = fields[..] else { panic!("{line}") };
        let hex = |x: &str| u64::from_str_radix(x, 16).expect("a hexadecimal number");
        let width = |x: &str| x.parse::<u32>().expect("a width");
        let widths: Vec<u32> = widths.split(',').map(width).collect();
        let group = groups.entry((body, widths, width(out))).or_default();
        group.push((operands.split(',').map(hex).collect(), hex(result)));
    }
    let mut wrong = Vec::new();
    for ((body, widths, out), rows) in &groups {
        for rows in rows.chunks(32) {
            let operand =
                |i: usize| std::array::from_fn(|lane| rows.get(lane).map_or(0, |(operands, _)| operands[i]));
            let results = match widths[..] {
                [a] => lanes(body, [a], *out, [operand(0)]),
                [a, b] => lanes(body, [a, b], *out, [operand(0), operand(1)]),
                [a, b, c] => lanes(body, [a, b, c], *out, [operand(0), operand(1), operand(2)]),
                [a, b, c, e] => {
                    lanes(body, [a, b, c, e], *out, [operand(0), operand(1), operand(2), operand(3)])
                }
                _ => panic!("{body}: {widths:?}"),
            };
            for ((operands, expected), result) in rows.iter().zip(results) {
                if result != *expected {
                    wrong.push(format!("{body} {operands:x?}: {result:x} instead of {expected:x}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
