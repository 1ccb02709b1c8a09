//! A filter that comes as a program: the annotation `run.oci.seccomp_bpf_data`, which crun reads.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{Filter, bpf};
use crate::{Error, Result};

/// The annotation: `struct sock_filter` after `struct sock_filter` as the kernel has them, in base64.
pub const ANNOTATION: &str = "run.oci.seccomp_bpf_data";

/// Reads the annotation's text.
///
/// # Errors
/// [`crate::Kind::InvalidArgument`] for what is not base64, and for a program that the kernel would refuse or that has
/// other instructions than libseccomp writes: what a filter answers is looked at before it is loaded.
pub fn decode(text: &str) -> Result<Arc<Filter>> {
    let bad = |what: &str| Error::invalid(format!("annotations.{ANNOTATION}: {what}"));
    let bytes = STANDARD.decode(text).map_err(|e| bad(&e.to_string()))?;
    let (program, rest) = bytes.as_chunks::<8>();
    if program.is_empty() || !rest.is_empty() {
        return Err(bad(&format!("{} bytes are not a list of instructions of 8 bytes", bytes.len())));
    }
    let program = bpf::read(program);
    match bpf::fault(&program) {
        Some(fault) => Err(bad(&fault)),
        None => Ok(Arc::new(Filter::new(program, 0))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_comes_out_as_it_went_in() {
        // ld [0]; jeq #39, 0, 1; ret ERRNO 77; ret ALLOW
        let filter = decode("IAAAAAAAAAAVAAABJwAAAAYAAABNAAUABgAAAAAA/38=").unwrap();
        assert_eq!(filter.instructions().len(), 4);
        assert_eq!((filter.verdict(0, 39, [0; 6]), filter.verdict(0, 40, [0; 6])), (0x0005_004d, 0x7fff_0000));
    }

    #[test]
    fn what_is_no_program_is_refused_by_name() {
        for (text, words) in [
            ("?", "Invalid"),
            ("", "0 bytes"),
            ("AAAA", "3 bytes"),
            ("hwAAAAAAAAA=", "instruction 0, code 0x87"),
            ("IAAAAAAAAAA=", "instruction 0, code 0x20"),
        ] {
            let e = decode(text).unwrap_err().to_string();
            assert!(e.starts_with("annotations.run.oci.seccomp_bpf_data: ") && e.contains(words), "{text}: {e}");
        }
        let long = STANDARD.encode([6, 0, 0, 0, 0, 0, 0, 0].repeat(4097));
        assert!(decode(&long).unwrap_err().to_string().contains("4097 instructions, the kernel takes 4096"));
    }
}
