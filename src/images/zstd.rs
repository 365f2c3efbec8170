//! Unpacks zstd: any number of frames, one after the other, as compressors of layers write them.

use std::io::{self, BufRead, Read};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// Largest window, in bytes: what `zstd --ultra -20` asks for. It is held in memory.
const WINDOW_MAX: u64 = 32 << 20;

/// Bytes that are unpacked before they are handed on.
const STEP: usize = 128 << 10;

/// A reader of what frames hold.
pub(super) struct Frames<R> {
    source: R,
    decoder: FrameDecoder,
    /// Within a frame.
    open: bool,
}

impl<R: BufRead> Frames<R> {
    pub(super) fn new(source: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(WINDOW_MAX);
        Self { source, decoder, open: false }
    }

    /// Begins the next frame; false at the end of the source.
    fn begin(&mut self) -> io::Result<bool> {
        loop {
            if self.source.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.decoder.reset(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let skipped = io::copy(&mut (&mut self.source).take(u64::from(length)), &mut io::sink())?;
                    if skipped < u64::from(length) {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(wrong(error)),
            }
        }
    }
}

fn wrong(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("zstd: {error}"))
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.open {
                if !self.begin()? {
                    return Ok(0);
                }
                self.open = true;
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                self.decoder.decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBytes(STEP)).map_err(wrong)?;
            }
            let count = self.decoder.read(buffer)?;
            if count > 0 {
                return Ok(count);
            }
            self.open = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    #[test]
    fn frames_follow_each_other_and_skippable_ones_are_skipped() {
        let text = b"a layer, a layer, a layer of many layers".repeat(9000);
        let mut bytes = compress_to_vec(&text[..], CompressionLevel::Fastest);
        bytes.extend_from_slice(&[0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);
        bytes.extend(compress_to_vec(&b"end"[..], CompressionLevel::Fastest));
        let mut found = Vec::new();
        Frames::new(&*bytes).read_to_end(&mut found).unwrap();
        assert_eq!(found, [&text[..], b"end"].concat());
        for cut in [1, 5, 9, bytes.len() / 2, bytes.len() - 1] {
            assert!(Frames::new(&bytes[..cut]).read_to_end(&mut Vec::new()).is_err(), "{cut}");
        }
    }

    #[test]
    fn a_window_that_would_fill_the_memory_is_refused() {
        // A frame header with a window of 3.75 TiB.
        let bytes = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xff, 0, 0, 0];
        let error = Frames::new(&bytes[..]).read(&mut [0; 16]).unwrap_err().to_string();
        assert!(error.contains("zstd"), "{error}");
    }
}
