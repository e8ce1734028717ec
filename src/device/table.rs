//! Tables of what compilers make of kernels: files that tests hold, and write anew when they are asked to.

/// The file at `path`, of the crate's folder.
pub(super) fn read(path: &str) -> String {
    std::fs::read_to_string(file(path)).expect("the table can be read")
}

fn file(path: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Fails if the file at `path`, of the crate's folder, is not `table`; with `TILEWRIGHT_WRITE_RESOURCES` set it becomes that.
pub(super) fn hold(path: &str, table: &str) {
    if std::env::var("TILEWRIGHT_WRITE_RESOURCES").is_ok() {
        std::fs::write(file(path), table).expect("the table can be written");
    }
    let kept = read(path);
    let known: std::collections::HashSet<&str> = kept.lines().collect();
    let differs: Vec<&str> = table.lines().filter(|line| !known.contains(line)).collect();
    assert!(
        table == kept,
        "{} lines of {path} are not as they were, now for example:\n{}",
        differs.len(),
        differs[..differs.len().min(20)].join("\n")
    );
}
