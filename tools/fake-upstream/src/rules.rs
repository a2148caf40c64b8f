//! Which script answers which request.

use std::collections::HashMap;

use serde::Deserialize;

use crate::script::{Piece, ScriptError, Step, Usage};

/// Sequences whose position is remembered; beyond that all begin again.
const SEQUENCES_MAX: usize = 10_000;

/// A script for some requests. The first rule that fits a request answers it.
#[derive(Debug, Clone, Default)]
pub struct Rule {
    /// Fits paths that contain this; `None` fits all.
    pub path: Option<String>,
    /// Fits this model only; `None` fits all.
    pub model: Option<String>,
    /// One for each request, the last one for all further ones.
    pub steps: Vec<Step>,
}

/// A script file: `{"rules": [{"model": "m", "path": "/v1", "steps": ["429", "ok"], …}]}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    rules: Vec<FileRule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRule {
    path: Option<String>,
    model: Option<String>,
    steps: Vec<String>,
    /// What the model says in every step: `[{"text": "…"}, {"tool": {"id", "name", "arguments"}}]`.
    pieces: Option<Vec<Piece>>,
    usage: Option<Usage>,
}

/// The rules of a script file.
///
/// # Errors
///
/// What is wrong with it, in words.
pub fn read_rules(text: &str, usual: &Step) -> Result<Vec<Rule>, String> {
    let file: File = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut rules = Vec::new();
    for rule in file.rules {
        if rule.steps.is_empty() {
            return Err("a rule has no steps".to_owned());
        }
        let mut usual = usual.clone();
        usual.pieces = rule.pieces.or(usual.pieces);
        usual.usage = rule.usage.or(usual.usage);
        let steps = rule.steps.iter().map(|step| usual.with(step)).collect::<Result<_, _>>();
        let steps = steps.map_err(|error: ScriptError| error.to_string())?;
        rules.push(Rule { path: rule.path, model: rule.model, steps });
    }
    Ok(rules)
}

/// All rules, and how far each sequence is.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    rules: Vec<(Rule, usize)>,
    named: HashMap<String, (Vec<Step>, usize)>,
}

impl Rules {
    /// Replaces them all; every sequence begins again.
    pub(crate) fn set(&mut self, rules: Vec<Rule>) {
        self.rules = rules.into_iter().map(|rule| (rule, 0)).collect();
        self.named.clear();
    }

    /// The step for a request.
    ///
    /// # Errors
    ///
    /// The model's name looks like a script and is none.
    pub(crate) fn step(
        &mut self,
        usual: &Step,
        path: &str,
        model: &str,
    ) -> Result<Step, ScriptError> {
        let fits = |rule: &Rule| {
            rule.path.as_ref().is_none_or(|part| path.contains(part.as_str()))
                && rule.model.as_ref().is_none_or(|name| name == model)
        };
        if let Some((rule, position)) = self.rules.iter_mut().find(|(rule, _)| fits(rule)) {
            return Ok(next(&rule.steps, position).unwrap_or(usual).clone());
        }
        let script = model.strip_prefix("fault-").or_else(|| model.strip_prefix("fake-"));
        let Some(script) = script else {
            return Ok(usual.clone());
        };
        if !self.named.contains_key(model) {
            if self.named.len() == SEQUENCES_MAX {
                self.named.clear();
            }
            self.named.insert(model.to_owned(), (usual.sequence(script)?, 0));
        }
        let named = self.named.get_mut(model);
        Ok(named.and_then(|(steps, position)| next(steps, position)).unwrap_or(usual).clone())
    }
}

fn next<'s>(steps: &'s [Step], position: &mut usize) -> Option<&'s Step> {
    let step = steps.get(*position).or(steps.last());
    *position = (*position + 1).min(steps.len());
    step
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::Refusal;

    fn refusals(rules: &mut Rules, path: &str, model: &str) -> Vec<Option<Refusal>> {
        let mut step = || rules.step(&Step::default(), path, model).unwrap().refusal;
        vec![step(), step(), step(), step()]
    }

    #[test]
    fn a_models_name_is_a_sequence_of_its_own() {
        let mut rules = Rules::default();
        let status = |code| Some(Refusal::Status(code));
        let wanted = [status(429), status(503), None, None];
        assert_eq!(refusals(&mut rules, "/", "fault-429-then-503-then-ok"), wanted);
        let wanted = [status(429), status(529), status(529), status(529)];
        assert_eq!(refusals(&mut rules, "/", "fault-429-then-529"), wanted);
        assert!(rules.step(&Step::default(), "/", "fault-tyop").is_err());
        assert!(rules.step(&Step::default(), "/", "some-model").is_ok());
    }

    #[test]
    fn a_file_says_rules_by_path_and_model() {
        let text = r#"{"rules": [
            {"path": "/v1/", "model": "m", "steps": ["503", "ok"],
             "pieces": [{"text": "hello"}, {"tool": {"id": "c", "name": "f", "arguments": "{}"}}],
             "usage": {"input": 1, "output": 2}}]}"#;
        let mut rules = Rules::default();
        rules.set(read_rules(text, &Step::default()).unwrap());
        let status = |code| Some(Refusal::Status(code));
        assert_eq!(refusals(&mut rules, "/v1/x", "m"), [status(503), None, None, None]);
        let step = rules.step(&Step::default(), "/v1/x", "m").unwrap();
        assert_eq!(step.pieces.unwrap().len(), 2);
        assert_eq!(refusals(&mut rules, "/v2/x", "m"), [None; 4]);
        assert!(read_rules(r#"{"rules": [{"steps": ["x"]}]}"#, &Step::default()).is_err());
        assert!(read_rules(r#"{"rules": [{"steps": []}]}"#, &Step::default()).is_err());
    }
}
