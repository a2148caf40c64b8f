//! The dialect as a whole, from outside.

mod encode;
mod stream;

use super::super::row::{Auth, Dialect, Quirks, Row};

/// As the vendor's own row, for what these tests ask of it.
const ROW: Row = Row {
    kind: "anthropic",
    dialect: Dialect::Anthropic,
    base_url: "https://api.anthropic.com/v1",
    auth: Auth::Header("x-api-key"),
    key_variables: &[],
    needs_key: true,
    headers: &[],
    first_output_secs: None,
    models_path: "/models",
    quirks: Quirks { merge_same_role: true, temperature_max: 1.0, ..Quirks::NONE },
};
