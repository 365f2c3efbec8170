//! Reads a file of settings with its lines: every key is looked up, and every value is tried by itself.

use std::path::Path;

use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::super::mistakes::{Mistake, unknown, wrong_value};
use super::{Entry, Origin, Reader, Shape, dotted, shown, try_alone};

/// Takes what a file says, or notes all that is wrong with it.
pub(super) fn read(reader: &mut Reader, path: &Path, text: &str) {
    let line = |at: usize| 1 + text.get(..at).unwrap_or(text).bytes().filter(|byte| *byte == b'\n').count();
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        reader.mistakes.extend(errors.iter().map(|error| Mistake {
            place: format!("{}:{}", path.display(), error.span().map_or(1, |span| line(span.start))),
            what: error.message().lines().next().unwrap_or("this is no TOML").to_owned(),
            hint: String::new(),
        }));
        return;
    }
    let values: Table = match toml::from_str(text) {
        Ok(values) => values,
        Err(error) => {
            let what = error.message().to_owned();
            reader.mistakes.push(Mistake { place: path.display().to_string(), what, hint: String::new() });
            return;
        }
    };
    let mut file = InFile { path, line: &line };
    file.table(reader, &mut Vec::new(), table.get_ref(), &values);
}

/// Walks a file, and knows on which line it is.
struct InFile<'a> {
    path: &'a Path,
    line: &'a dyn Fn(usize) -> usize,
}

impl InFile<'_> {
    fn origin(&self, key: &Spanned<toml::de::DeString<'_>>) -> Origin {
        Origin::File(self.path.to_owned(), (self.line)(key.span().start))
    }

    fn table(&mut self, reader: &mut Reader, path: &mut Vec<String>, table: &DeTable<'_>, values: &Table) {
        let shape = reader.shape(path);
        for (key, value) in table {
            let name = key.get_ref().to_string();
            let Some(plain) = values.get(&name) else { continue };
            path.push(name.clone());
            match &shape {
                Shape::Keys(known) if !known.contains(&name) => {
                    let known: Vec<&str> = known.iter().map(String::as_str).collect();
                    reader.mistakes.push(unknown(self.origin(key).to_string(), &dotted(path), &name, &known));
                }
                _ => self.value(reader, path, key, value, plain),
            }
            path.pop();
        }
    }

    fn value(
        &mut self,
        reader: &mut Reader,
        path: &mut Vec<String>,
        key: &Spanned<toml::de::DeString<'_>>,
        value: &Spanned<DeValue<'_>>,
        plain: &Value,
    ) {
        let before = reader.mistakes.len();
        match (reader.shape(path), value.get_ref(), plain) {
            (Shape::Keys(_), DeValue::Table(table), Value::Table(values)) => {
                return self.table(reader, path, table, values);
            }
            (Shape::Tables(keys), DeValue::Table(tables), Value::Table(values)) => {
                for (name, table) in tables {
                    let inner = name.get_ref().to_string();
                    path.push(inner.clone());
                    match (table.get_ref(), values.get(&inner)) {
                        (DeValue::Table(table), Some(Value::Table(values))) => {
                            self.known(reader, (path, None), keys, table, values);
                        }
                        (_, Some(other)) => self.alone(reader, (path, None), name, other),
                        _ => {}
                    }
                    path.pop();
                }
            }
            (Shape::List(keys), DeValue::Array(list), Value::Array(values)) => {
                for (index, (item, value)) in list.iter().zip(values).enumerate() {
                    match (item.get_ref(), value) {
                        (DeValue::Table(table), Value::Table(values)) => {
                            self.known(reader, (path, Some(index)), keys, table, values);
                        }
                        _ => self.alone(reader, (path, None), key, plain),
                    }
                }
            }
            _ => self.alone(reader, (path, None), key, plain),
        }
        if reader.mistakes.len() == before {
            let mut entry = Entry::new(path.clone(), plain.clone(), self.origin(key));
            self.parts(path, value.get_ref(), &mut entry.parts);
            reader.entries.push(entry);
        }
    }

    /// Where each part of a table stands.
    fn parts(&self, path: &[String], value: &DeValue<'_>, found: &mut Vec<(Vec<String>, Origin)>) {
        let DeValue::Table(table) = value else { return };
        for (key, value) in table {
            let path: Vec<String> = path.iter().cloned().chain([key.get_ref().to_string()]).collect();
            self.parts(&path, value.get_ref(), found);
            found.push((path, self.origin(key)));
        }
    }

    /// A table below a free name, or one of a list.
    fn known(
        &self,
        reader: &mut Reader,
        at: (&[String], Option<usize>),
        keys: &[&str],
        table: &DeTable<'_>,
        values: &Table,
    ) {
        for (key, _) in table {
            let name = key.get_ref().to_string();
            let mut path = at.0.to_vec();
            path.push(name.clone());
            if !keys.contains(&name.as_str()) {
                let shown = shown(&path, at.1);
                reader.mistakes.push(unknown(self.origin(key).to_string(), &shown, &name, keys));
            } else if let Some(value) = values.get(&name) {
                self.alone(reader, (&path, at.1), key, value);
            }
        }
    }

    /// A value by itself: whether its key takes it.
    fn alone(
        &self,
        reader: &mut Reader,
        at: (&[String], Option<usize>),
        key: &Spanned<toml::de::DeString<'_>>,
        value: &Value,
    ) {
        if let Err(message) = try_alone(at.0, at.1, value.clone()) {
            let place = self.origin(key).to_string();
            reader.mistakes.push(wrong_value(place, &shown(at.0, at.1), value, &message));
        }
    }
}
