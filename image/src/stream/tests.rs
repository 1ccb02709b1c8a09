use std::io::Write;

use flate2::{Compression, write::GzEncoder};

use super::*;

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn zstd(data: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(data, ruzstd::encoding::CompressionLevel::Fastest)
}

fn digest(data: &[u8]) -> Digest {
    use sha2::{Digest as _, Sha256};
    Digest::parse(&format!("sha256:{}", Hasher::Sha256(Sha256::new().chain_update(data)).hex())).unwrap()
}

fn layer(stored: &[u8], content: &[u8]) -> Layer {
    let mut file = memfd();
    file.write_all(stored).unwrap();
    let blob = Blob::new(Arc::new(file), 0, stored.len() as u64);
    Layer { name: "layer".into(), blob, digest: Some(digest(stored)), diff_id: digest(content) }
}

fn memfd() -> File {
    File::from(rustix::fs::memfd_create("layer", rustix::fs::MemfdFlags::CLOEXEC).unwrap())
}

fn read(layer: &Layer) -> Result<Vec<u8>> {
    let mut budget = 10 << 20;
    with_layer(layer, &mut budget, |chunks| {
        let mut content = Vec::new();
        chunks.read_to_end(&mut content)?;
        Ok(content)
    })
}

#[test]
fn all_members_and_frames_are_read() {
    let content = b"0123456789abcdef".repeat(40_000);
    let (first, second) = content.split_at(300_001);
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 5, 0, 0, 0][..], b"12345"].concat();
    for (name, stored) in [
        ("plain", content.clone()),
        ("gzip", gzip(&content)),
        ("gzip members", [gzip(first), gzip(b""), gzip(second)].concat()),
        ("gzip with padding", [gzip(&content), vec![0; 700]].concat()),
        ("zstd", zstd(&content)),
        ("zstd frames", [skippable.clone(), zstd(first), skippable.clone(), zstd(second), skippable].concat()),
    ] {
        assert_eq!(read(&layer(&stored, &content)).unwrap().len(), content.len(), "{name}");
    }
}

#[test]
fn damaged_streams_are_errors_that_say_so() {
    let content = b"0123456789abcdef".repeat(40_000);
    let (first, second) = content.split_at(300_001);
    let cut = |mut bytes: Vec<u8>| {
        bytes.truncate(bytes.len() - 9);
        bytes
    };
    for (name, stored, said) in [
        ("truncated gzip", cut(gzip(&content)), "incomplete deflate stream"),
        ("truncated zstd", cut(zstd(&content)), "zstd"),
        ("second member missing", gzip(first), "digest mismatch"),
        ("second member is garbage", [gzip(first), b"\x1f\x8b\x08garbage garbage".to_vec()].concat(), ""),
        ("garbage after the members", [gzip(&content), b"x".to_vec()].concat(), "data follows the end"),
        ("swapped members", [gzip(second), gzip(first)].concat(), "uncompressed: digest mismatch"),
        ("bzip2", b"BZh91AY".to_vec(), "bzip2"),
        ("xz", b"\xfd7zXZ\0".to_vec(), "xz"),
    ] {
        let error = read(&layer(&stored, &content)).unwrap_err().to_string();
        assert!(error.contains(said), "{name}: {error}");
    }
    let mut other = layer(&content, &content);
    other.digest = Some(digest(b"other"));
    assert!(read(&other).unwrap_err().to_string().starts_with("digest mismatch"));
}

#[test]
fn digests_cover_what_the_consumer_leaves() {
    let content = b"0123456789abcdef".repeat(100_000);
    let mut budget = 10 << 20;
    let at_once = |layer: &Layer, budget: &mut u64| with_layer(layer, budget, |_| Ok(()));
    assert!(at_once(&layer(&content, &content), &mut budget).is_ok());
    assert_eq!(budget, (10 << 20) - content.len() as u64);
    assert!(at_once(&layer(&content, b"other"), &mut budget).is_err());
    let failed = with_layer(&layer(&content, &content), &mut budget, |_| Err::<(), _>(Error::invalid("enough")));
    assert_eq!(failed.unwrap_err().to_string(), "enough");
}

#[test]
fn a_bomb_is_stopped_at_the_budget() {
    let content = vec![0; 20 << 20];
    let error = read(&layer(&gzip(&content), &content)).unwrap_err().to_string();
    assert!(error.contains("--max-size"), "{error}");
    assert!(read(&layer(&gzip(&content[..1 << 20]), &content[..1 << 20])).is_ok(), "the control");
}
