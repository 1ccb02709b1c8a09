//! The annotation `run.oci.seccomp_bpf_data` of crun, which holds a filter as a program.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{Filter, bpf};
use crate::{Error, Result};

/// The annotation's name. Its value is an array of `struct sock_filter` in base64.
pub const ANNOTATION: &str = "run.oci.seccomp_bpf_data";

/// Decodes the annotation's value.
///
/// # Errors
/// [`crate::Kind::InvalidArgument`] if it is not base64, if the kernel would refuse the program, or if the program has
/// instructions that libseccomp does not write. The runtime interprets a filter before it loads it, so it must know all
/// instructions.
pub fn decode(text: &str) -> Result<Arc<Filter>> {
    let bad = |what: &str| Error::invalid(format!("annotations.{ANNOTATION}: {what}"));
    let bytes = STANDARD.decode(text).map_err(|e| bad(&e.to_string()))?;
    let (program, rest) = bytes.as_chunks::<8>();
    if program.is_empty() || !rest.is_empty() {
        return Err(bad(&format!("{} bytes are not a list of instructions of 8 bytes", bytes.len())));
    }
    let program = bpf::decode(program);
    match bpf::find_invalid(&program) {
        Some(why) => Err(bad(&why)),
        None => Ok(Arc::new(Filter::new(program, 0))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bpf_annotation_is_decoded_to_its_program() {
        // ld [0]; jeq #39, 0, 1; ret ERRNO 77; ret ALLOW
        let filter = decode("IAAAAAAAAAAVAAABJwAAAAYAAABNAAUABgAAAAAA/38=").unwrap();
        assert_eq!(filter.instructions().len(), 4);
        assert_eq!((filter.verdict(0, 39, [0; 6]), filter.verdict(0, 40, [0; 6])), (0x0005_004d, 0x7fff_0000));
    }

    #[test]
    fn bpf_annotation_without_a_program_is_refused_by_name() {
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
