//! What is asked of the functions: requests whose answers can be checked.

use crate::node::FUNCTIONS;
use crate::settings::Action;

/// Names of the shipped functions.
pub fn shipped() -> impl Iterator<Item = &'static str> {
    FUNCTIONS.iter().map(|(name, _)| *name)
}

/// A shipped function by its name, in whatever case.
pub fn action(name: &str) -> Option<Action> {
    let (name, code) = FUNCTIONS.iter().find(|(n, _)| n.eq_ignore_ascii_case(name))?;
    Some(Action { name: (*name).to_owned(), code: (*code).to_owned(), main: "main".to_owned() })
}

/// What one function is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// Name of its action.
    pub action: String,
    /// The same arguments every time (JSON); without, those of the shipped function, another set each time.
    pub arguments: Option<String>,
    /// Whether an answer must say `"ok": true`.
    pub checked: bool,
}

impl Load {
    /// Of a shipped function: all of them check their own answers.
    pub fn shipped(action: &str) -> Self {
        Self { action: action.to_owned(), arguments: None, checked: true }
    }

    /// The request with the number `seed`. Different requests do different work, within narrow bounds, so that sandboxes of one function
    /// come to differ.
    pub fn request(&self, seed: u64) -> String {
        if let Some(arguments) = &self.arguments {
            return arguments.clone();
        }
        let s = seed % 251;
        match self.action.as_str() {
            "vanilla" => format!(r#"{{"n": {}}}"#, 1000 + s),
            "linalg" => format!(r#"{{"n": {}, "seed": {s}}}"#, 100 + s % 40),
            "imagepro" => format!(r#"{{"size": 256, "seed": {s}}}"#),
            "videopro" => format!(r#"{{"frames": {}, "seed": {s}}}"#, 10 + s % 20),
            "mapreduce" => format!(r#"{{"lines": {}, "seed": {s}}}"#, 1500 + s),
            "htmlserve" => format!(r#"{{"rows": {}, "columns": 20}}"#, 40 + s % 30),
            "authenc" => format!(r#"{{"bytes": {}, "seed": {s}}}"#, 2000 + s),
            "featuregen" => format!(r#"{{"reviews": {}, "seed": {s}}}"#, 300 + s),
            "rnnmodel" => format!(r#"{{"start": "{}", "length": 20}}"#, char::from(b'a' + (s % 26) as u8)),
            "modeltrain" => format!(r#"{{"reviews": {}, "seed": {s}}}"#, 500 + s),
            _ => format!(r#"{{"seed": {s}}}"#),
        }
    }

    /// Whether an answer is right: an action that returned, and, where it checks itself, said so.
    pub fn right(&self, status: u32, body: &str) -> bool {
        let said = || serde_json::from_str::<serde_json::Value>(body).ok()?.get("ok")?.as_bool();
        status == 200 && (!self.checked || said() == Some(true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_json_and_differ() {
        for name in shipped() {
            let load = Load::shipped(name);
            let (a, b) = (load.request(3), load.request(4));
            assert!(serde_json::from_str::<serde_json::Value>(&a).is_ok(), "{name}: {a}");
            assert_ne!(a, b, "{name}");
            assert_eq!(a, load.request(3));
        }
        assert_eq!(action("RNNModel").map(|a| a.name).as_deref(), Some("rnnmodel"));
        assert_eq!(action("nothing"), None);
    }

    #[test]
    fn a_wrong_or_missing_ok_is_a_wrong_answer() {
        let load = Load::shipped("vanilla");
        assert!(load.right(200, r#"{"pi": 3, "ok": true}"#));
        for (status, body) in [(200, r#"{"ok": false}"#), (200, "{}"), (200, "ok"), (502, r#"{"ok": true}"#)] {
            assert!(!load.right(status, body), "{status} {body}");
        }
        let own = Load { checked: false, arguments: Some("{}".into()), ..load };
        assert!(own.right(200, "{}") && !own.right(502, "{}"));
        assert_eq!(own.request(9), "{}");
    }
}
