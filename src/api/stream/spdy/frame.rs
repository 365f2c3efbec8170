//! Frames of SPDY/3.1, as bytes and back. It holds no connection and reads from nowhere. What is
//! out of bounds ends the connection; what is only unknown is passed over.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// Bytes of a frame's head.
const HEAD: usize = 8;
/// The most bytes of a control frame.
const CONTROL_LIMIT: usize = 64 << 10;
/// The most bytes of a header block once it is inflated.
const BLOCK_LIMIT: usize = 16 << 10;
/// The most headers of one block.
const HEADERS_LIMIT: u32 = 64;
/// The most bytes of data that are handed on at once; larger frames come in pieces.
const PIECE: usize = 32 << 10;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;
const VERSION: u16 = 3;

/// The last frame of its sender on a stream.
const FIN: u8 = 1;

/// Why a stream is refused.
pub(super) const REFUSED: u32 = 3;
/// Why a stream with an impossible number is refused.
pub(super) const PROTOCOL_ERROR: u32 = 1;

/// Words that compression begins with; each follows its length.
const WORDS: [&str; 65] = [
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];
/// And what follows them.
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 \
Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not \
Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov \
Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,\
application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=\
iso-8859-1,utf-,*,enq=0.";

fn dictionary() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1423);
    for word in WORDS {
        bytes.put_u32(u32::try_from(word.len()).unwrap_or(0));
        bytes.put_slice(word.as_bytes());
    }
    bytes.put_slice(TAIL.as_bytes());
    bytes
}

/// Names and values, names in lower case.
pub(in super::super) type Headers = Vec<(String, String)>;

/// The other side broke the protocol or a limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(in super::super) struct Violation(pub(super) &'static str);

/// What arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// A stream is opened.
    Open { id: u32, fin: bool, headers: Headers },
    /// A stream is given up.
    Reset { id: u32 },
    /// An answer is wanted, or this is one.
    Ping(u32),
    /// No more streams come.
    GoAway,
    /// Data, or a part of it.
    Data { id: u32, bytes: Bytes, fin: bool },
    /// Nothing that matters here.
    Other,
}

/// From bytes to frames.
pub(super) struct Decoder {
    inflate: Decompress,
    /// The stream, the bytes still to come, and whether it ends with them.
    data: Option<(u32, usize, bool)>,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self { inflate: Decompress::new(true), data: None }
    }

    /// The next frame, as far as it is there.
    pub(super) fn next(&mut self, from: &mut BytesMut) -> Result<Option<Frame>, Violation> {
        if let Some((id, left, fin)) = self.data {
            return Ok(self.piece(from, id, left, fin));
        }
        if from.len() < HEAD {
            return Ok(None);
        }
        let first = u32::from_be_bytes([from[0], from[1], from[2], from[3]]);
        let flags = from[4];
        let length = u32::from_be_bytes([0, from[5], from[6], from[7]]) as usize;
        if first & 0x8000_0000 == 0 {
            from.advance(HEAD);
            return Ok(self.piece(from, first, length, flags & FIN != 0));
        }
        if length > CONTROL_LIMIT {
            return Err(Violation("a control frame is too long"));
        }
        if from.len() < HEAD + length {
            return Ok(None);
        }
        from.advance(HEAD);
        let mut body = from.split_to(length).freeze();
        if (first >> 16) & 0x7fff != u32::from(VERSION) {
            return Err(Violation("a frame is of another version than 3"));
        }
        let kind = u16::try_from(first & 0xffff).unwrap_or(0);
        let mut number = || {
            if body.len() < 4 {
                Err(Violation("a control frame is too short"))
            } else {
                Ok(body.get_u32() & 0x7fff_ffff)
            }
        };
        match kind {
            SYN_STREAM => {
                let (id, _associated) = (number()?, number()?);
                if body.len() < 2 {
                    return Err(Violation("a control frame is too short"));
                }
                body.advance(2);
                Ok(Some(Frame::Open { id, fin: flags & FIN != 0, headers: self.headers(&body)? }))
            }
            SYN_REPLY | HEADERS => {
                number()?;
                // Inflated all the same: what comes later refers to it.
                self.headers(&body)?;
                Ok(Some(Frame::Other))
            }
            RST_STREAM => Ok(Some(Frame::Reset { id: number()? })),
            PING => {
                if body.len() < 4 {
                    return Err(Violation("a control frame is too short"));
                }
                Ok(Some(Frame::Ping(body.get_u32())))
            }
            GOAWAY => Ok(Some(Frame::GoAway)),
            // Settings, windows, and what is not known.
            _ => Ok(Some(Frame::Other)),
        }
    }

    fn piece(&mut self, from: &mut BytesMut, id: u32, left: usize, fin: bool) -> Option<Frame> {
        let take = left.min(from.len()).min(PIECE);
        let left = left - take;
        self.data = (left > 0).then_some((id, left, fin));
        if take == 0 && left > 0 {
            return None;
        }
        Some(Frame::Data { id, bytes: from.split_to(take).freeze(), fin: fin && left == 0 })
    }

    fn headers(&mut self, compressed: &[u8]) -> Result<Headers, Violation> {
        let block = self.inflate(compressed)?;
        let mut rest = block.as_slice();
        let number = |rest: &mut &[u8]| {
            if rest.len() < 4 { Err(Violation("a header block is too short")) } else { Ok(rest.get_u32()) }
        };
        let count = number(&mut rest)?;
        if count > HEADERS_LIMIT {
            return Err(Violation("a header block has too many headers"));
        }
        let mut headers = Vec::new();
        for _ in 0..count {
            let mut text = || {
                let length = number(&mut rest)? as usize;
                let (text, after) = rest.split_at_checked(length).ok_or(Violation("a header block is too short"))?;
                rest = after;
                Ok(String::from_utf8_lossy(text).into_owned())
            };
            let (name, value) = (text()?, text()?);
            headers.push((name.to_ascii_lowercase(), value));
        }
        Ok(headers)
    }

    fn inflate(&mut self, mut compressed: &[u8]) -> Result<Vec<u8>, Violation> {
        let mut block = vec![0; BLOCK_LIMIT];
        let mut filled = 0;
        while !compressed.is_empty() {
            let (read, written) = (self.inflate.total_in(), self.inflate.total_out());
            let done = self.inflate.decompress(compressed, &mut block[filled..], FlushDecompress::Sync);
            let consumed = usize::try_from(self.inflate.total_in() - read).unwrap_or(usize::MAX);
            filled += usize::try_from(self.inflate.total_out() - written).unwrap_or(usize::MAX);
            compressed = compressed.get(consumed..).unwrap_or_default();
            match done {
                Err(error) if error.needs_dictionary().is_some() => {
                    let set = self.inflate.set_dictionary(&dictionary());
                    set.map_err(|_| Violation("a header block uses another dictionary"))?;
                }
                Err(_) => return Err(Violation("a header block can not be inflated")),
                Ok(Status::StreamEnd) => return Err(Violation("the header compression ended")),
                Ok(_) if filled == block.len() => return Err(Violation("a header block is too long")),
                Ok(_) if consumed == 0 => break,
                Ok(_) => {}
            }
        }
        block.truncate(filled);
        Ok(block)
    }
}

/// From frames to bytes.
pub(super) struct Encoder {
    deflate: Compress,
    begun: bool,
}

impl Encoder {
    pub(super) fn new() -> Self {
        Self { deflate: Compress::new(Compression::fast(), true), begun: false }
    }

    /// The answer to a stream that was opened. It has no headers: nobody reads them.
    pub(super) fn reply(&mut self, id: u32) -> Bytes {
        let block = self.block(&[]);
        let mut frame = control(SYN_REPLY, 0, 4 + block.len());
        frame.put_u32(id);
        frame.put_slice(&block);
        frame.freeze()
    }

    fn block(&mut self, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = Vec::new();
        plain.put_u32(u32::try_from(headers.len()).unwrap_or(0));
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.put_u32(u32::try_from(text.len()).unwrap_or(0));
            plain.put_slice(text.as_bytes());
        }
        if !std::mem::replace(&mut self.begun, true) {
            // It can only fail once something was compressed.
            let _ = self.deflate.set_dictionary(&dictionary());
        }
        let mut block = Vec::with_capacity(plain.len() + 64);
        // A vector with room takes all of so little in one step.
        let _ = self.deflate.compress_vec(&plain, &mut block, FlushCompress::Sync);
        block
    }

    /// A stream that a client opens.
    #[cfg(test)]
    pub(super) fn open(&mut self, id: u32, fin: bool, headers: &[(&str, &str)]) -> Bytes {
        let block = self.block(headers);
        let mut frame = control(SYN_STREAM, u8::from(fin), 10 + block.len());
        frame.put_u32(id);
        frame.put_bytes(0, 6);
        frame.put_slice(&block);
        frame.freeze()
    }
}

fn control(kind: u16, flags: u8, length: usize) -> BytesMut {
    let mut frame = BytesMut::with_capacity(HEAD + length);
    frame.put_u16(0x8000 | VERSION);
    frame.put_u16(kind);
    frame.put_u8(flags);
    frame.put_uint(length as u64, 3);
    frame
}

/// The head of data on a stream; at most 2^24 - 1 bytes.
pub(super) fn data_head(id: u32, length: usize, fin: bool) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEAD);
    frame.put_u32(id);
    frame.put_u8(u8::from(fin));
    frame.put_uint(length as u64, 3);
    frame.freeze()
}

fn numbers(kind: u16, values: &[u32]) -> Bytes {
    let mut frame = control(kind, 0, 4 * values.len());
    for value in values {
        frame.put_u32(*value);
    }
    frame.freeze()
}

/// Gives up a stream.
pub(super) fn reset(id: u32, why: u32) -> Bytes {
    numbers(RST_STREAM, &[id, why])
}

/// Asks for an answer, or is one.
pub(super) fn ping(id: u32) -> Bytes {
    numbers(PING, &[id])
}

/// No more streams are taken.
pub(super) fn go_away(last: u32) -> Bytes {
    numbers(GOAWAY, &[last, 0])
}

/// So much more may be sent on a stream, or on all together (0).
pub(super) fn window(id: u32, bytes: usize) -> Bytes {
    numbers(WINDOW_UPDATE, &[id, u32::try_from(bytes).unwrap_or(u32::MAX) & 0x7fff_ffff])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(decoder: &mut Decoder, bytes: &mut BytesMut) -> Result<Vec<Frame>, Violation> {
        let mut found = Vec::new();
        while let Some(frame) = decoder.next(bytes)? {
            found.push(frame);
        }
        Ok(found)
    }

    #[test]
    fn the_dictionary_is_that_of_the_protocol() {
        let bytes = dictionary();
        let (mut a, mut b) = (1_u32, 0_u32);
        for byte in &bytes {
            a = (a + u32::from(*byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!((bytes.len(), b << 16 | a), (1423, 0xe3c6_a7c2));
    }

    #[test]
    fn streams_open_with_headers_and_data_comes_in_pieces() {
        let mut encoder = Encoder::new();
        let mut bytes = BytesMut::new();
        for id in [1, 3] {
            bytes.extend_from_slice(&encoder.open(id, id == 3, &[("streamType", "error"), ("port", "8080")]));
        }
        bytes.extend_from_slice(&data_head(1, PIECE + 5, true));
        bytes.extend_from_slice(&vec![7; PIECE + 5]);
        bytes.extend_from_slice(&data_head(1, 0, true));
        bytes.extend_from_slice(&ping(9));
        bytes.extend_from_slice(&reset(1, REFUSED));
        bytes.extend_from_slice(&window(0, 10));
        bytes.extend_from_slice(&go_away(3));
        let headers: Headers = vec![("streamtype".into(), "error".into()), ("port".into(), "8080".into())];
        let data = |bytes: usize, fin| Frame::Data { id: 1, bytes: vec![7; bytes].into(), fin };
        let expected = vec![
            Frame::Open { id: 1, fin: false, headers: headers.clone() },
            Frame::Open { id: 3, fin: true, headers },
            data(PIECE, false),
            data(5, true),
            data(0, true),
            Frame::Ping(9),
            Frame::Reset { id: 1 },
            Frame::Other,
            Frame::GoAway,
        ];
        assert_eq!(all(&mut Decoder::new(), &mut bytes.clone()).unwrap(), expected);
        // Byte by byte it is the same, with data in smaller pieces.
        let (mut decoder, mut trickle, mut found) = (Decoder::new(), BytesMut::new(), Vec::new());
        for byte in bytes {
            trickle.extend_from_slice(&[byte]);
            found.extend(all(&mut decoder, &mut trickle).unwrap());
        }
        found.retain(|frame| !matches!(frame, Frame::Data { .. }));
        assert_eq!(found.len(), 6);
    }

    #[test]
    fn what_is_out_of_bounds_is_refused() {
        let refused = |bytes: &[u8]| all(&mut Decoder::new(), &mut BytesMut::from(bytes)).unwrap_err().0;
        assert_eq!(refused(&[0x80, 3, 0, 1, 0, 0xff, 0, 0]), "a control frame is too long");
        assert_eq!(refused(&[0x80, 2, 0, 1, 0, 0, 0, 0]), "a frame is of another version than 3");
        assert_eq!(refused(&[0x80, 3, 0, 3, 0, 0, 0, 1, 9]), "a control frame is too short");
        assert_eq!(refused(&[0x80, 3, 0, 2, 0, 0, 0, 6, 0, 0, 0, 1, 5, 5]), "a header block can not be inflated");
        let long = "x".repeat(BLOCK_LIMIT);
        let mut encoder = Encoder::new();
        assert_eq!(refused(&encoder.open(1, false, &[("a", &long)])), "a header block is too long");
        let many = vec![("a", "b"); 65];
        assert_eq!(refused(&Encoder::new().open(1, false, &many)), "a header block has too many headers");
    }
}
