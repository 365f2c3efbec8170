//! The journal of systemd hears the agent in its own protocol, where standard error leads there: with
//! priorities, and with every value as a field of its own, so that `journalctl KITH_POD=...` finds
//! it. The message holds the values too, for those who only read. Elsewhere text is written, as before.

use std::fmt::{Debug, Write as _};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use nix::sys::stat::fstat;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// Where the journal listens.
const SOCKET: &str = "/run/systemd/journal/socket";

/// Bytes of one value: more would not fit into a datagram with the rest.
const VALUE_LIMIT: usize = 48 << 10;

/// Bytes of one entry. A datagram of twice as many fits the usual buffer of a socket.
const ENTRY_LIMIT: usize = 96 << 10;

/// Sends events to the journal.
#[derive(Debug)]
pub(crate) struct Journal {
    socket: UnixDatagram,
    /// Journal's name of the program.
    name: &'static str,
}

/// Values by their names, and the same as text.
#[derive(Clone, Debug, Default)]
struct Values {
    message: String,
    fields: Vec<(String, String)>,
}

impl Journal {
    /// The way to the journal, if that is where standard error leads.
    pub(crate) fn of_stderr() -> Option<Self> {
        let stream = std::env::var("JOURNAL_STREAM").ok()?;
        let stderr = fstat(std::io::stderr()).ok()?;
        is_stream(&stream, stderr.st_dev, stderr.st_ino).then(|| Self::at(Path::new(SOCKET)))?
    }

    fn at(path: &Path) -> Option<Self> {
        let socket = UnixDatagram::unbound().ok()?;
        socket.connect(path).ok()?;
        Some(Self { socket, name: "kith" })
    }

    fn send(&self, level: Level, target: &str, values: &Values) {
        let mut entry = Vec::with_capacity(512);
        put(&mut entry, "PRIORITY", priority(level));
        put(&mut entry, "SYSLOG_IDENTIFIER", self.name);
        put(&mut entry, "KITH_TARGET", target);
        put(&mut entry, "MESSAGE", &values.text());
        for (name, value) in &values.fields {
            if entry.len() + value.len() < ENTRY_LIMIT {
                put(&mut entry, &format!("KITH_{}", field_name(name)), value);
            }
        }
        // A journal that does not listen must not stop the agent, and there is nobody else to tell.
        let _unheard = self.socket.send(&entry);
    }
}

/// Whether `DEVICE:INODE` names this file.
fn is_stream<D: TryInto<u64>, I: TryInto<u64>>(stream: &str, device: D, inode: I) -> bool {
    let parsed = stream.split_once(':').and_then(|(d, i)| Some((d.parse::<u64>().ok()?, i.parse::<u64>().ok()?)));
    parsed.is_some() && parsed == device.try_into().ok().zip(inode.try_into().ok())
}

/// Syslog's number.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        _ => "7",
    }
}

/// Names of fields are of A-Z, 0-9 and _.
fn field_name(name: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    name.chars().take(48).map(letter).collect()
}

/// One field of the protocol: with its length where it has several lines.
fn put(entry: &mut Vec<u8>, name: &str, value: &str) {
    let mut end = value.len().min(VALUE_LIMIT);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    let value = &value[..end];
    entry.extend(name.bytes());
    if value.contains('\n') {
        entry.push(b'\n');
        entry.extend((value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend(value.bytes());
    entry.push(b'\n');
}

impl Values {
    fn text(&self) -> String {
        let mut text = self.message.clone();
        for (name, value) in &self.fields {
            let space = if text.is_empty() { "" } else { " " };
            _ = write!(text, "{space}{name}={value}");
        }
        text
    }

    fn note(&mut self, field: &Field, value: String) {
        if field.name() == "message" {
            self.message = value;
        } else {
            self.fields.push((field.name().to_owned(), value));
        }
    }
}

impl Visit for Values {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.note(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.note(field, value.to_owned());
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Journal {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut values = Values::default();
        attributes.record(&mut values);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(values);
        }
    }

    fn on_record(&self, id: &Id, record: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(values) = span.extensions_mut().get_mut::<Values>()
        {
            record.record(values);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut values = Values::default();
        event.record(&mut values);
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(known) = span.extensions().get::<Values>() {
                let name = |field: &str| format!("{}_{field}", span.name());
                values.fields.extend(known.fields.iter().map(|(field, value)| (name(field), value.clone())));
            }
        }
        self.send(*event.metadata().level(), event.metadata().target(), &values);
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn values_are_fields_and_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        let subscriber = tracing_subscriber::registry().with(Journal::at(&path).unwrap());
        tracing::subscriber::with_default(subscriber, || {
            let _span = tracing::info_span!("task", name = "lead").entered();
            tracing::warn!(pod = "default/web", error = "a\nb", count = 3, "it went wrong");
        });
        let mut bytes = vec![0; 4096];
        let count = journal.recv(&mut bytes).unwrap();
        let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
        for part in [
            "PRIORITY=4\nSYSLOG_IDENTIFIER=kith\n",
            "\nKITH_POD=default/web\n",
            "\nKITH_COUNT=3\n",
            "\nKITH_TASK_NAME=lead\n",
            "it went wrong pod=default/web error=a\nb count=3 task_name=lead\n",
            "\nKITH_ERROR\n\u{3}\0\0\0\0\0\0\0a\nb\n",
        ] {
            assert!(text.contains(part), "{part:?} is not in {text:?}");
        }
    }

    #[test]
    fn only_the_journals_own_stream_is_one() {
        assert!(is_stream("8:12345", 8_u64, 12_345_u64));
        for other in ["8:12346", "9:12345", "8", "", "x:y"] {
            assert!(!is_stream(other, 8_u64, 12_345_u64), "{other}");
        }
    }
}
