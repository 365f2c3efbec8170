//! Watch: the store's events as a stream of JSON lines. Events are pulled when the client takes
//! more, so a slow watcher holds no memory: what it missed is gone, and it is told so.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Api;
use super::answer::{self, Answer};
use super::ask::{Accept, Ask};
use super::failure::Failure;
use super::read::{Selection, decode, include, object, shows_values};
use super::route::Target;
use super::secret::is_secret;
use crate::metrics::{Held, counted};
use crate::resource::kind::Kind;
use crate::resource::meta;
use crate::resource::table::{self, Include};
use crate::store::{Change, Document, Event};

/// How long a watch lasts when the client does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_hours(1);
/// The longest watch.
const LONGEST_TIMEOUT: Duration = Duration::from_hours(24);
/// Time between bookmarks, for clients that want them.
const BOOKMARK_INTERVAL: Duration = Duration::from_mins(1);

/// Bytes that are made ready for a client before it takes any: a slow one costs no more than these.
const QUEUE_BYTES: usize = 64 << 10;

/// One client's watch.
struct Watcher {
    api: Api,
    kind: &'static Kind,
    selection: Selection,
    form: Accept,
    /// Whether values must be opened before they are shown.
    opens: bool,
    include: Include,
    bookmarks: bool,
    /// Everything up to this revision was sent or passed over.
    cursor: u64,
    revisions: watch::Receiver<u64>,
    /// What was there when the watch began, as far as it was not sent yet.
    first: std::vec::IntoIter<Document>,
    queue: VecDeque<Bytes>,
    queued: usize,
    /// Only the first table of a watch describes its columns.
    described: bool,
    deadline: Instant,
    next_bookmark: Instant,
    over: bool,
    _counted: Held,
}

impl Api {
    /// `GET` of a collection with `watch=true`.
    pub(super) async fn watch(
        &self,
        target: &Target,
        ask: &Ask,
        warnings: &mut Vec<String>,
    ) -> Result<Answer, Failure> {
        let (form, selection, include) = (ask.form()?, Selection::of(target, ask)?, include(ask)?);
        if !ask.query.get("sendInitialEvents").is_empty() {
            // Clients fall back to list and watch.
            let message = "ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: \
                           sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
            return Err(Failure::new(422, "Invalid", message));
        }
        let asked = match ask.query.get("resourceVersion") {
            "" | "0" => None,
            text => Some(
                text.parse::<u64>().map_err(|_| Failure::bad_request(format!("invalid resource version {text:?}")))?,
            ),
        };
        let timeout = match ask.query.number("timeoutSeconds")? {
            Some(seconds @ 1..) => Duration::from_secs(seconds.unsigned_abs()).min(LONGEST_TIMEOUT),
            _ => DEFAULT_TIMEOUT,
        };
        let now = Instant::now();
        let mut watcher = Watcher {
            api: self.clone(),
            kind: target.kind,
            selection,
            form,
            opens: is_secret(target.kind) && shows_values(form, ask),
            include,
            bookmarks: ask.query.flag("allowWatchBookmarks") && form == Accept::Json,
            cursor: asked.unwrap_or(0),
            revisions: self.replica().revision(),
            first: Vec::new().into_iter(),
            queue: VecDeque::new(),
            queued: 0,
            described: false,
            deadline: now + timeout,
            next_bookmark: now + BOOKMARK_INTERVAL,
            over: false,
            _counted: counted::WATCHES.hold(),
        };
        if asked.is_none() {
            self.freshen(ask, warnings).await;
            let namespace = (!target.namespace.is_empty()).then_some(target.namespace.as_str());
            let listing = self.replica().list(&target.kind.store_kind(), namespace)?;
            watcher.cursor = listing.revision;
            watcher.first = listing.documents.into_iter();
        }
        let chunks = stream::unfold(watcher, |mut watcher| async move {
            let chunk = watcher.next().await?;
            Some((Ok(chunk), watcher))
        });
        Ok(answer::stream("application/json", chunks))
    }
}

impl Watcher {
    /// The next line; `None` when the watch is over.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.queue.pop_front() {
                self.queued -= line.len();
                return Some(if self.opens { self.open(line).await } else { line });
            }
            if self.over {
                return None;
            }
            if let Some(document) = self.first.next() {
                self.begin(&document);
                continue;
            }
            let latest = *self.revisions.borrow_and_update();
            self.pull(latest);
            if !self.queue.is_empty() || self.over {
                continue;
            }
            let shutdown = self.api.inner.config.shutdown.clone();
            // Every arm only waits: whichever is dropped loses nothing.
            tokio::select! {
                moved = self.revisions.changed() => self.over = moved.is_err(),
                () = tokio::time::sleep_until(self.next_bookmark), if self.bookmarks => self.bookmark(),
                () = tokio::time::sleep_until(self.deadline) => {
                    if self.bookmarks {
                        self.bookmark();
                    }
                    self.over = true;
                }
                () = shutdown.cancelled() => self.over = true,
            }
        }
    }

    /// Takes an object that was there when the watch began into the queue.
    fn begin(&mut self, document: &Document) {
        match object(document) {
            Ok(found) if self.selection.selects(&found) => self.push("ADDED", found),
            Ok(_) => {}
            Err(failure) => self.fail(&failure),
        }
    }

    /// Takes events since the cursor into the queue: all, or as many as it holds. Those of one
    /// revision stay together, so that the cursor can stand behind them.
    fn pull(&mut self, latest: u64) {
        if latest < self.cursor {
            // The client saw a newer state on another device: this replica has yet to catch up.
            return;
        }
        match self.api.replica().events_since(self.cursor, Some(&self.kind.store_kind())) {
            Ok(events) => {
                for event in events {
                    if self.queued >= QUEUE_BYTES && event.revision > self.cursor {
                        return;
                    }
                    self.cursor = self.cursor.max(event.revision);
                    if let Err(failure) = self.take(&event) {
                        return self.fail(&failure);
                    }
                }
                self.cursor = self.cursor.max(latest);
            }
            Err(gone) => {
                let message = format!("too old resource version: {} ({})", gone.asked, gone.oldest);
                self.fail(&Failure::gone(message));
            }
        }
    }

    fn take(&mut self, event: &Event) -> Result<(), Failure> {
        if !self.selection.namespace.is_empty() && event.key.namespace != self.selection.namespace {
            return Ok(());
        }
        let object = decode(&event.key, &event.body, event.revision)?;
        let previous = event.previous.as_ref().map(|body: &Arc<[u8]>| decode(&event.key, body, event.revision));
        let previous = previous.transpose()?.filter(|object| self.selection.selects(object));
        let selected = self.selection.selects(&object);
        match (event.change, previous, selected) {
            (Change::Created, _, true) | (Change::Updated, None, true) => self.push("ADDED", object),
            (Change::Updated, Some(_), true) => self.push("MODIFIED", object),
            // It left the selection: the client sees its last selected state go.
            (Change::Updated, Some(previous), false) => self.push("DELETED", previous),
            (Change::Deleted, _, true) => self.push("DELETED", object),
            (_, _, false) => {}
        }
        Ok(())
    }

    fn push(&mut self, change: &str, object: Value) {
        let object = match self.form {
            Accept::Json => object,
            Accept::Metadata(version) => table::partial(object, version),
            Accept::Table(version) => {
                let revision = meta::text(&object, "resourceVersion").to_owned();
                let mut table = table::render(self.kind, vec![object], self.include, version, self.api.now());
                table["metadata"] = json!({"resourceVersion": revision});
                if std::mem::replace(&mut self.described, true) {
                    table["columnDefinitions"] = Value::Null;
                }
                table
            }
        };
        self.line(&json!({"type": change, "object": object}));
    }

    fn line(&mut self, value: &Value) {
        let mut text = value.to_string();
        text.push('\n');
        self.queued += text.len();
        self.queue.push_back(Bytes::from(text));
    }

    /// The line of a secret with its values opened; the watch ends where that can not be done.
    async fn open(&mut self, line: Bytes) -> Bytes {
        let Ok(mut event) = serde_json::from_slice::<Value>(&line) else { return line };
        if ["BOOKMARK", "ERROR"].contains(&event["type"].as_str().unwrap_or_default()) {
            return line;
        }
        let mut objects = match self.form {
            Accept::Table(_) => event["object"]["rows"].as_array_mut().into_iter().flatten().collect(),
            Accept::Json | Accept::Metadata(_) => vec![&mut event],
        };
        let mut shown: Vec<Value> = objects.iter_mut().map(|object| object["object"].take()).collect();
        let opened = self.api.open_secrets(&mut shown).await;
        for (place, object) in objects.into_iter().zip(shown) {
            place["object"] = object;
        }
        if let Err(failure) = opened {
            (self.over, self.queued) = (true, 0);
            self.queue.clear();
            event = json!({"type": "ERROR", "object": failure.to_status()});
        }
        Bytes::from(format!("{event}\n"))
    }

    fn bookmark(&mut self) {
        self.next_bookmark = Instant::now() + BOOKMARK_INTERVAL;
        let object = json!({"kind": self.kind.kind, "apiVersion": self.kind.api_version(),
            "metadata": {"resourceVersion": self.cursor.to_string(), "creationTimestamp": null}});
        self.line(&json!({"type": "BOOKMARK", "object": object}));
    }

    fn fail(&mut self, failure: &Failure) {
        self.line(&json!({"type": "ERROR", "object": failure.to_status()}));
        self.over = true;
    }
}
