//! How much of a device a model uses.

/// Floating-point operations of training on one token, forward and backward, as llm.c counts them: 6 for each parameter, and
/// 6 L C T for attention, which looks at half of the context on average.
pub fn per_token(parameters: usize, layers: usize, channels: usize, context: usize) -> f64 {
    6.0 * parameters as f64 + 6.0 * layers as f64 * channels as f64 * context as f64
}

/// What NVIDIA's data sheets say of dense products of 16 bits, by a part of the GPU's name, in 10^12 operations a second.
const PEAKS: [(&str, f64); 8] = [
    ("H100 PCIe", 756.0),
    ("H100 NVL", 835.0),
    ("H100", 989.4),
    ("H200", 989.4),
    ("A100", 312.0),
    ("L40S", 362.0),
    ("L4", 121.0),
    ("T4", 65.0),
];

/// The peak of a device with that name in 16 bits, if it is known.
pub fn peak_tflops(device: &str) -> Option<f64> {
    let words: Vec<&str> = device.split(|char: char| !char.is_alphanumeric()).collect();
    let has = |name: &str| name.split(' ').all(|part| words.contains(&part));
    PEAKS.iter().find(|(name, _)| has(name)).map(|&(_, peak)| peak)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peaks_are_found_by_name() {
        assert_eq!(peak_tflops("cuda 0, NVIDIA H100 80GB HBM3"), Some(989.4));
        assert_eq!(peak_tflops("NVIDIA H100 PCIe"), Some(756.0));
        assert_eq!(peak_tflops("NVIDIA A100-SXM4-40GB"), Some(312.0));
        assert_eq!(
            (peak_tflops("NVIDIA L40S"), peak_tflops("NVIDIA L40"), peak_tflops("Tesla T4")),
            (Some(362.0), None, Some(65.0))
        );
        assert_eq!(peak_tflops("cpu"), None);
    }

    #[test]
    fn gpt2s_operations_are_llm_cs() {
        // 124 million parameters, 12 layers of 768 channels, 1024 tokens.
        assert_eq!(per_token(124_439_808, 12, 768, 1024), 746_638_848.0 + 56_623_104.0);
    }
}
