//! Tables of the bench: printed as Markdown for people, written as JSON for programs.
//!
//! Each measurement fills its table row by row. The bench prints a table as soon as it is full.

use std::fmt;

use serde_json::{Map, Value};

/// One value in a table.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// A text.
    Text(String),
    /// A whole number, printed with thousands separators.
    Count(u64),
    /// A number, printed with this many decimals.
    Real(f64, usize),
    /// A verdict on a limit, printed as `kept` or `missed`.
    Kept(bool),
    /// No value.
    Empty,
}

impl Cell {
    /// Makes a count of a measured number; only the median of an even number of values has a
    /// fraction.
    pub fn rounded(value: f64) -> Self {
        Self::Count(value.max(0.0).round() as u64)
    }

    /// Returns the limit and whether `value` is within it, or two empty cells without a limit.
    pub fn limit(value: f64, limit: Option<u64>) -> [Self; 2] {
        match limit {
            Some(limit) => [Self::Count(limit), Self::Kept(value <= limit as f64)],
            None => [Self::Empty, Self::Empty],
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Text(text) => text.as_str().into(),
            Self::Count(count) => (*count).into(),
            Self::Real(value, _) => (*value).into(),
            Self::Kept(kept) => (*kept).into(),
            Self::Empty => Value::Null,
        }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<u64> for Cell {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

impl From<usize> for Cell {
    fn from(count: usize) -> Self {
        Self::Count(count as u64)
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Count(count) => {
                let digits = count.to_string();
                for (place, digit) in digits.char_indices() {
                    let comma = if place > 0 && (digits.len() - place).is_multiple_of(3) {
                        ","
                    } else {
                        ""
                    };
                    write!(f, "{comma}{digit}")?;
                }
                Ok(())
            }
            Self::Real(value, decimals) => write!(f, "{value:.decimals$}"),
            Self::Kept(true) => f.write_str("kept"),
            Self::Kept(false) => f.write_str("missed"),
            Self::Empty => Ok(()),
        }
    }
}

/// Rows under a title.
#[derive(Clone, Debug)]
pub struct Table {
    /// The measured quantity and its unit.
    title: &'static str,
    columns: &'static [&'static str],
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// Makes a table without rows.
    pub fn new(title: &'static str, columns: &'static [&'static str]) -> Self {
        Self { title, columns, rows: Vec::new() }
    }

    /// Adds a row.
    ///
    /// # Panics
    ///
    /// If the row does not have one cell for each column.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        let cells: Vec<_> = cells.into_iter().collect();
        assert_eq!(cells.len(), self.columns.len(), "{}: a row of another width", self.title);
        self.rows.push(cells);
    }

    /// Returns the table as JSON: one object per row, keyed by column; `null` for an empty cell.
    pub fn json(&self) -> Value {
        let row = |cells: &Vec<Cell>| {
            let pairs = self.columns.iter().zip(cells);
            pairs.map(|(column, cell)| ((*column).to_owned(), cell.json())).collect::<Map<_, _>>()
        };
        let rows: Vec<_> = self.rows.iter().map(row).collect();
        serde_json::json!({ "title": self.title, "rows": rows })
    }
}

/// Formats the table as Markdown, with columns padded for a terminal.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: Vec<Vec<String>> =
            self.rows.iter().map(|row| row.iter().map(Cell::to_string).collect()).collect();
        let widths: Vec<usize> = (self.columns.iter().enumerate())
            .map(|(i, name)| {
                rows.iter().map(|row| row[i].chars().count()).fold(name.chars().count(), usize::max)
            })
            .collect();
        // Align numbers to the right, so that their digits line up.
        let right = |i: usize| {
            self.rows.iter().any(|row| matches!(row[i], Cell::Count(_) | Cell::Real(..)))
        };
        let line = |f: &mut fmt::Formatter<'_>, cells: &[&str]| {
            for (i, cell) in cells.iter().enumerate() {
                let width = widths[i];
                if right(i) {
                    write!(f, "| {cell:>width$} ")?
                } else {
                    write!(f, "| {cell:width$} ")?
                }
            }
            writeln!(f, "|")
        };
        writeln!(f, "{}\n", self.title)?;
        line(f, self.columns)?;
        for (i, width) in widths.iter().enumerate() {
            write!(f, "|{}{}", "-".repeat(width + 1), if right(i) { ":" } else { "-" })?;
        }
        writeln!(f, "|")?;
        rows.iter().try_for_each(|row| line(f, &row.iter().map(String::as_str).collect::<Vec<_>>()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new("Weights, g", &["what", "weight", "limit", "verdict"]);
        let [limit, verdict] = Cell::limit(1_234_567.0, Some(999));
        table.row(["moon".into(), Cell::rounded(1_234_567.4), limit, verdict]);
        let [limit, verdict] = Cell::limit(7.0, None);
        table.row(["µ".into(), 7_u64.into(), limit, verdict]);
        table
    }

    #[test]
    fn people_see_columns() {
        let text = "Weights, g\n\n\
                    | what |    weight | limit | verdict |\n\
                    |------|----------:|------:|---------|\n\
                    | moon | 1,234,567 |   999 | missed  |\n\
                    | µ    |         7 |       |         |\n";
        assert_eq!(table().to_string(), text);
    }

    #[test]
    fn programs_get_numbers() {
        let rows = &table().json()["rows"];
        assert_eq!((&rows[0]["weight"], &rows[0]["verdict"]), (&1_234_567.into(), &false.into()));
        assert!(rows[1]["limit"].is_null());
    }

    #[test]
    fn a_value_at_its_limit_keeps_it() {
        assert_eq!(Cell::limit(10.0, Some(10))[1], Cell::Kept(true));
        assert_eq!(Cell::limit(10.5, Some(10))[1], Cell::Kept(false));
    }

    #[test]
    #[should_panic(expected = "another width")]
    fn a_row_fits_its_table() {
        Table::new("x", &["a", "b"]).row(["1".into()]);
    }
}
