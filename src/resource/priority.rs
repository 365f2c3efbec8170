//! How much a pod matters against others: the classes that every fleet knows, and what a pod that names
//! a class, or none, comes to.

/// Classes that need not be made, with their values.
pub const SYSTEM: [(&str, i32); 2] =
    [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

/// The highest value of a class that users make.
pub const HIGHEST: i32 = 1_000_000_000;

/// What names of classes of the fleet itself begin with.
pub const RESERVED: &str = "system-";

/// Priority of a class, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its value.
    pub value: i32,
    /// Whether pods that name no class are of it.
    pub global_default: bool,
}

/// The class that a pod belongs to among those of the fleet: the named one, or the default one where it
/// names none; `None` when there is no default.
pub fn class<'a>(named: &'a str, classes: impl Iterator<Item = Class<'a>>) -> Result<Option<Class<'a>>, String> {
    if named.is_empty() {
        // Two defaults can only come from two writes at once: the lower one counts, as in Kubernetes.
        return Ok(classes.filter(|class| class.global_default).min_by_key(|class| class.value));
    }
    if let Some((name, value)) = SYSTEM.iter().find(|(name, _)| *name == named) {
        return Ok(Some(Class { name, value: *value, global_default: false }));
    }
    let found = { classes }.find(|class| class.name == named);
    found.map(Some).ok_or_else(|| format!("no PriorityClass with name {named} was found"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_of_the_class_that_it_names_or_of_the_default() {
        let one = |name, value, global_default| Class { name, value, global_default };
        let classes = [one("low", -5, false), one("usual", 10, true), one("usual-2", 7, true)];
        let value = |named| class(named, classes.clone().into_iter()).map(|found| found.map(|found| found.value));
        assert_eq!(value("low"), Ok(Some(-5)));
        assert_eq!(value(""), Ok(Some(7)));
        assert_eq!(value("system-node-critical"), Ok(Some(2_000_001_000)));
        assert_eq!(value("none"), Err("no PriorityClass with name none was found".into()));
        assert_eq!(class("", std::iter::empty()), Ok(None));
    }
}
