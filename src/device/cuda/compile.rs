//! Kernels as CUDA C++, compiled by NVRTC, and kept on disk.
//!
//! NVRTC is loaded when the first kernel is compiled. What it made is stored under the hash of everything
//! that it depends on, so that the second run of a program compiles nothing.

use std::borrow::Cow;
use std::ffi::{CStr, CString};
use std::fmt::Write as _;
use std::path::Path;

use cudarc::nvrtc::{result, sys};
use sha2::{Digest, Sha256};

use super::driver::{Image, Properties};
use crate::device::cache;
use crate::device::kernel::{Constant, Kernel};
use crate::{DType, Error};

/// A part of a kernel's source, under the name that compilers, profilers and the simulator give it.
macro_rules! cuda_source {
    ($path:literal) => {
        concat!(
            "#line 1 \"kernels/",
            $path,
            "\"\n",
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/kernels/", $path))
        )
    };
}
pub(crate) use cuda_source;

/// What every kernel sees first: the element types.
const TYPES: &str = cuda_source!("common/types.cuh");

/// A part of every entry's name: another number for whatever this module does otherwise with the same text.
const EDITION: u32 = 2;

/// The text that NVRTC compiles.
pub(super) fn source(kernel: &Kernel) -> Result<String, String> {
    let mut text = String::from(TYPES);
    text.push_str("\n#line 1 \"constants\"\n");
    for (name, value) in &kernel.constants {
        let declared = match *value {
            Constant::U32(x) => writeln!(text, "constexpr unsigned {name} = {x}u;"),
            // The shortest decimal that reads back as the same f32.
            Constant::F32(x) if x.is_finite() => writeln!(text, "constexpr float {name} = {x:?}f;"),
            Constant::F32(x) => return Err(format!("constant {name} is {x}")),
            Constant::Bool(x) => writeln!(text, "constexpr bool {name} = {x};"),
            Constant::Type(t) => writeln!(text, "using {name} = {};", type_name(t)),
        };
        declared.map_err(|error| error.to_string())?;
    }
    for part in kernel.source {
        // What names no file itself is known by the kernel's name.
        if !part.starts_with("#line") {
            writeln!(text, "#line 1 \"{}\"", kernel.name).map_err(|error| error.to_string())?;
        }
        text.push_str(part);
        text.push('\n');
    }
    Ok(text)
}

fn type_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F64 => "double",
        DType::F32 => "float",
        DType::F16 => "f16",
        DType::BF16 => "bf16",
        DType::U32 => "unsigned",
    }
}

/// What NVRTC is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Major and minor, as in `sm_86`.
    pub compute_capability: (u32, u32),
    pub image: Image,
}

impl Target {
    /// Machine code where NVRTC knows the architecture; PTX of the newest one that it knows where the device
    /// is newer, which the driver then translates.
    fn of(properties: &Properties, nvrtc: &Nvrtc) -> Result<Target, String> {
        let (major, minor) = properties.compute_capability;
        let device = major * 10 + minor;
        let known = nvrtc.architectures()?;
        if properties.image == Image::Ptx || known.contains(&device) {
            return Ok(Target { compute_capability: (major, minor), image: properties.image });
        }
        let older = known.iter().copied().filter(|&a| a < device).max();
        let older = older.ok_or_else(|| format!("this NVRTC does not compile for sm_{device} any more"))?;
        Ok(Target { compute_capability: (older / 10, older % 10), image: Image::Ptx })
    }

    /// `--gpu-architecture=sm_86`, or `compute_86` for PTX.
    fn option(&self) -> String {
        let (major, minor) = self.compute_capability;
        let kind = if self.image == Image::Cubin { "sm" } else { "compute" };
        format!("--gpu-architecture={kind}_{major}{minor}")
    }

    pub(super) fn options(&self) -> Vec<String> {
        // Line information costs nothing at run time, and profilers and the simulator name source lines.
        ["--std=c++17", "-default-device", "-lineinfo"]
            .map(String::from)
            .into_iter()
            .chain([self.option()])
            .collect()
    }
}

/// The image of `kernel` for a device, from the cache or compiled.
///
/// # Errors
/// [`Error::NoDevice`] without NVRTC, [`Error::Kernel`] with the compiler's log.
pub fn image(kernel: &Kernel, properties: &Properties) -> crate::Result<Vec<u8>> {
    let nvrtc = Nvrtc::find(&properties.name)?;
    let refuse = |reason| Error::Kernel { kernel: kernel.name, device: properties.name.clone(), reason };
    let target = Target::of(properties, &nvrtc).map_err(refuse)?;
    compile(&nvrtc, kernel, target, cache::folder().as_deref()).map_err(refuse)
}

fn compile(nvrtc: &Nvrtc, kernel: &Kernel, target: Target, folder: Option<&Path>) -> Result<Vec<u8>, String> {
    let (text, options) = (source(kernel)?, target.options());
    let entry = folder.map(|folder| folder.join(key(&text, &options, nvrtc.version)));
    if let Some(image) = entry.as_deref().and_then(cache::load) {
        return Ok(image);
    }
    let (image, _) = nvrtc.compile(kernel.name, &text, &options, target.image)?;
    // A full or read-only disk costs time at the next start, nothing else.
    if let Some(entry) = entry {
        let _ = cache::store(&entry, &image);
    }
    Ok(image)
}

/// Whether a driver of this CUDA loads what NVRTC of that version makes, or else what to install. Machine code is for
/// drivers of the same major version or a later one ("minor version compatibility"), PTX for those of no earlier version.
fn loads(image: Image, nvrtc: (i32, i32), driver: (i32, i32)) -> Result<(), String> {
    let fits = if image == Image::Cubin { nvrtc.0 <= driver.0 } else { nvrtc <= driver };
    if fits {
        return Ok(());
    }
    let (major, minor) = driver;
    let package = match (image, major) {
        (Image::Cubin, ..=12) => format!("nvidia-cuda-nvrtc-cu{major}"),
        (Image::Cubin, _) => format!("nvidia-cuda-nvrtc=={major}.*"),
        (Image::Ptx, ..=12) => format!("nvidia-cuda-nvrtc-cu{major}=={major}.{minor}.*"),
        (Image::Ptx, _) => format!("nvidia-cuda-nvrtc=={major}.{minor}.*"),
    };
    Err(format!(
        "NVRTC {}.{} makes what its driver, of CUDA {major}.{minor}, does not load; install a newer driver, or an \
         older NVRTC (`pip install '{package}'`), and have its lib folder on LD_LIBRARY_PATH",
        nvrtc.0, nvrtc.1
    ))
}

/// The oldest NVRTC that says for which architectures it compiles.
const OLDEST: (i32, i32) = (11, 2);

/// The loaded compiler.
pub struct Nvrtc {
    version: (i32, i32),
}

impl Nvrtc {
    /// # Errors
    /// [`Error::NoDevice`] with what to install.
    pub fn find(requested: &str) -> crate::Result<Nvrtc> {
        let refuse = |reason: &str| Error::NoDevice { requested: requested.into(), reason: reason.into() };
        // SAFETY: looking for the library runs its initialisers; NVRTC's are made for that.
        if !unsafe { sys::is_culib_present() } {
            return Err(refuse(
                "NVRTC, the CUDA compiler, is not on the library path; install the CUDA toolkit's libnvrtc, or \
                 `pip install nvidia-cuda-nvrtc` (with a driver before 580 `nvidia-cuda-nvrtc-cu12`) and add its lib \
                 folder to LD_LIBRARY_PATH",
            ));
        }
        let mut version = (0, 0);
        // SAFETY: two integers are written.
        let asked = unsafe { sys::nvrtcVersion(&mut version.0, &mut version.1) };
        asked.result().map_err(|error| refuse(&format!("NVRTC does not answer: {error:?}")))?;
        // Of functions that one does not have the binding would panic.
        if version < OLDEST {
            let (major, minor) = version;
            return Err(refuse(&format!("NVRTC is {major}.{minor}; 11.2 is the oldest that will do")));
        }
        Ok(Nvrtc { version })
    }

    /// Refuses a device whose driver does not take what this compiler makes.
    ///
    /// # Errors
    /// [`Error::NoDevice`] with what to install.
    pub fn check_driver(&self, properties: &Properties) -> crate::Result<()> {
        let refuse = |reason| Error::NoDevice { requested: properties.name.clone(), reason };
        let Some(driver) = properties.cuda else { return Ok(()) };
        let image = Target::of(properties, self).map_err(refuse)?.image;
        loads(image, self.version, driver).map_err(refuse)
    }

    /// Major and minor.
    #[cfg(all(test, feature = "cuda-sim"))]
    pub fn version(&self) -> (i32, i32) {
        self.version
    }

    /// The compute capabilities that it compiles for, as 10 major + minor.
    fn architectures(&self) -> Result<Vec<u32>, String> {
        let mut count = 0;
        // SAFETY: an integer is written, then as many integers as it says.
        unsafe {
            sys::nvrtcGetNumSupportedArchs(&mut count).result().map_err(|e| format!("{e:?}"))?;
            let mut list = vec![0; count.max(0) as usize];
            sys::nvrtcGetSupportedArchs(list.as_mut_ptr()).result().map_err(|e| format!("{e:?}"))?;
            Ok(list.into_iter().map(|a| a as u32).collect())
        }
    }

    /// The image, and what the compiler said along the way.
    pub(super) fn compile(
        &self,
        name: &str,
        text: &str,
        options: &[String],
        image: Image,
    ) -> Result<(Vec<u8>, String), String> {
        let c_string = |s: &str| CString::new(s).map_err(|e| e.to_string());
        let program =
            result::create_program(&c_string(text)?, Some(&c_string(name)?)).map_err(|e| format!("{e:?}"))?;
        // SAFETY: the program is live until it is destroyed below, and each buffer is as large as NVRTC says.
        unsafe {
            let compiled = match result::compile_program(program, options) {
                Ok(()) if image == Image::Ptx => {
                    result::get_ptx(program).map(|ptx| relative(ptx.into_iter().map(|c| c as u8).collect()))
                }
                Ok(()) => cubin(program),
                Err(error) => Err(error),
            };
            let log = match result::get_program_log(program) {
                Ok(log) => CStr::from_ptr(log.as_ptr()).to_string_lossy().into_owned(),
                Err(error) => format!("{error:?}"),
            };
            let _ = result::destroy_program(program);
            match compiled {
                Ok(image) => Ok((image, log)),
                Err(_) => Err(log),
            }
        }
    }
}

/// PTX without this process's folder, which NVRTC puts before the names of files: what is cached is the same from
/// wherever it was compiled, and reports name files as their `#line` does.
fn relative(ptx: Vec<u8>) -> Vec<u8> {
    let (Ok(folder), Ok(text)) = (std::env::current_dir(), std::str::from_utf8(&ptx)) else { return ptx };
    let absolute = format!("\"{}{}", folder.display(), std::path::MAIN_SEPARATOR);
    let mut lines: Vec<Cow<str>> = text.split('\n').map(Cow::from).collect();
    for line in lines.iter_mut().filter(|line| line.trim_start().starts_with(".file")) {
        *line = line.replace(&absolute, "\"").into();
    }
    lines.join("\n").into_bytes()
}

/// # Safety
/// The program must have been compiled.
unsafe fn cubin(program: sys::nvrtcProgram) -> Result<Vec<u8>, result::NvrtcError> {
    let mut size = 0;
    // SAFETY: the buffer is as large as NVRTC says.
    unsafe {
        sys::nvrtcGetCUBINSize(program, &mut size).result()?;
        let mut code = vec![0u8; size];
        sys::nvrtcGetCUBIN(program, code.as_mut_ptr().cast()).result()?;
        Ok(code)
    }
}

/// The name of the entry for this text compiled in this way.
pub(super) fn key(text: &str, options: &[String], version: (i32, i32)) -> String {
    let mut hash = Sha256::new();
    hash.update(text);
    for option in options {
        hash.update([0]);
        hash.update(option);
    }
    hash.update(format!("\0NVRTC {}.{}, edition {EDITION}", version.0, version.1));
    format!("{:x}", hash.finalize())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::device::cache::{load, store};

    const SCALE: &[&str] = &["extern \"C\" __global__ void scale(const T* x, T* y) {
        y[threadIdx.x] = from_float<T>(FACTOR * to_float(x[threadIdx.x]));
    }"];

    fn scale(factor: f32, dtype: DType) -> Kernel {
        Kernel::builtin("scale", SCALE, "scale").with("FACTOR", factor).with("T", dtype)
    }

    /// The compiler, or a note that there is none; CI requires it.
    fn nvrtc() -> Option<Nvrtc> {
        match Nvrtc::find("the tests") {
            Ok(nvrtc) => Some(nvrtc),
            Err(error) => {
                println!("NOT RUN: {error}");
                let required = std::env::var("TILEWRIGHT_REQUIRE").unwrap_or_default();
                assert!(!required.contains("cuda"), "TILEWRIGHT_REQUIRE names {required}");
                None
            }
        }
    }

    /// Those of a GPU.
    fn properties(compute_capability: (u32, u32), cuda: Option<(i32, i32)>) -> Properties {
        Properties {
            name: "test".into(),
            compute_capability,
            image: Image::Cubin,
            cuda,
            multiprocessors: 1,
            memory: 0,
            shared_per_block: 0,
        }
    }

    const SM_80: Target = Target { compute_capability: (8, 0), image: Image::Ptx };

    #[test]
    fn constants_come_before_the_source() {
        let text = source(&scale(0.1, DType::BF16)).unwrap();
        let constants = "constexpr float FACTOR = 0.1f;\nusing T = bf16;\n#line 1 \"scale\"\nextern";
        assert!(text.contains(constants), "{text}");
        assert!(source(&scale(f32::NAN, DType::F32)).unwrap_err().contains("FACTOR is NaN"));
    }

    #[test]
    fn parts_without_a_file_are_named_after_the_kernel() {
        let parts: &[&str] = &["#line 1 \"own.cuh\"\nint f();", "int g();"];
        let text = source(&Kernel::new("mine.cu", parts, "g")).unwrap();
        assert!(text.ends_with("#line 1 \"own.cuh\"\nint f();\n#line 1 \"mine.cu\"\nint g();\n"), "{text}");
    }

    #[test]
    fn compiles_once_and_mends_damaged_entries() {
        let Some(nvrtc) = nvrtc() else { return };
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("not made yet");
        let compile = |kernel: &Kernel| compile(&nvrtc, kernel, SM_80, Some(&cache)).unwrap();
        let first = compile(&scale(2.0, DType::F16));
        let text = String::from_utf8_lossy(&first);
        assert!(text.contains(".entry scale") && text.contains(".file\t1 \"scale\""), "{text}");
        let entries = || -> Vec<PathBuf> {
            std::fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path()).collect()
        };
        let [entry] = &entries()[..] else { panic!("one entry") };
        // What is there is taken, even if this compiler would not have made it.
        store(entry, b"an entry of the cache").unwrap();
        assert_eq!(compile(&scale(2.0, DType::F16)), b"an entry of the cache");
        // Unless it is damaged, torn or empty.
        let whole = std::fs::read(entry).unwrap();
        let mut damaged = whole.clone();
        damaged[40] ^= 1;
        for bytes in [&damaged[..], &whole[..whole.len() - 1], &whole[..20], &[]] {
            std::fs::write(entry, bytes).unwrap();
            assert_eq!(compile(&scale(2.0, DType::F16)), first);
            assert_eq!(load(entry).unwrap(), first);
        }
        compile(&scale(3.0, DType::F16));
        compile(&scale(2.0, DType::F32));
        assert_eq!(entries().len(), 3);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_no_error() {
        let Some(nvrtc) = nvrtc() else { return };
        let file = tempfile::NamedTempFile::new().unwrap();
        compile(&nvrtc, &scale(2.0, DType::F32), SM_80, Some(file.path())).unwrap();
        compile(&nvrtc, &scale(2.0, DType::F32), SM_80, None).unwrap();
    }

    #[test]
    fn a_wrong_kernel_gets_the_compilers_words() {
        let Some(nvrtc) = nvrtc() else { return };
        const WRONG: &[&str] = &["#line 7 \"kernels/wrong.cu\"\nint f() { return missing; }"];
        let log = compile(&nvrtc, &Kernel::builtin("wrong", WRONG, "f"), SM_80, None).unwrap_err();
        assert!(log.contains("kernels/wrong.cu(7)") && log.contains("missing"), "{log}");
    }

    #[test]
    fn drivers_load_what_is_not_newer() {
        use Image::{Cubin, Ptx};
        for (image, nvrtc, driver) in [
            (Cubin, (13, 0), (13, 1)),
            (Cubin, (12, 9), (12, 0)),
            (Cubin, (12, 0), (13, 0)),
            (Ptx, (12, 4), (12, 4)),
        ] {
            assert_eq!(loads(image, nvrtc, driver), Ok(()));
        }
        for (image, nvrtc, driver, package) in [
            (Cubin, (13, 0), (12, 8), "'nvidia-cuda-nvrtc-cu12'"),
            (Cubin, (14, 0), (13, 0), "'nvidia-cuda-nvrtc==13.*'"),
            (Ptx, (12, 8), (12, 4), "'nvidia-cuda-nvrtc-cu12==12.4.*'"),
            (Ptx, (13, 1), (13, 0), "'nvidia-cuda-nvrtc==13.0.*'"),
        ] {
            let reason = loads(image, nvrtc, driver).unwrap_err();
            assert!(reason.contains(package), "{reason}");
        }
    }

    #[test]
    fn a_driver_that_is_too_old_is_told_so() {
        let Some(nvrtc) = nvrtc() else { return };
        let (major, minor) = nvrtc.version;
        for cuda in [None, Some((major, 0)), Some((major + 1, 0))] {
            nvrtc.check_driver(&properties((8, 6), cuda)).unwrap();
        }
        let error = nvrtc.check_driver(&properties((8, 6), Some((major - 1, 9)))).unwrap_err();
        assert!(matches!(error, Error::NoDevice { .. }), "{error:?}");
        assert!(error.to_string().contains(&format!("NVRTC {major}.{minor}")), "{error}");
    }

    #[test]
    fn newer_devices_get_ptx_and_known_ones_machine_code() {
        let Some(nvrtc) = nvrtc() else { return };
        let target = |compute_capability| Target::of(&properties(compute_capability, None), &nvrtc);
        assert_eq!(target((8, 6)), Ok(Target { compute_capability: (8, 6), image: Image::Cubin }));
        let newest = *nvrtc.architectures().unwrap().iter().max().unwrap();
        let newest = (newest / 10, newest % 10);
        let expected = Target { compute_capability: newest, image: Image::Ptx };
        assert_eq!(target((99, 0)), Ok(expected));
        assert!(target((3, 5)).unwrap_err().contains("sm_35"));
        let cubin = compile(&nvrtc, &scale(1.0, DType::BF16), target((9, 0)).unwrap(), None).unwrap();
        assert_eq!(&cubin[..4], b"\x7fELF");
    }
}
