//! The dialect as a whole, from outside.

mod encode;
mod stream;

use super::super::row::{Auth, Dialect, Quirks, Row};

/// As the vendor's own row, for what these tests ask of it.
const ROW: Row = Row {
    kind: "cohere",
    dialect: Dialect::Cohere,
    base_url: "https://api.cohere.com",
    auth: Auth::Bearer,
    key_variables: &[],
    needs_key: true,
    headers: &[],
    first_output_secs: None,
    models_path: "/v1/models",
    quirks: Quirks { temperature_max: 1.0, ..Quirks::NONE },
};
