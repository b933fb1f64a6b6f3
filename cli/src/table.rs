//! Tables as published tools draw them.

use comfy_table::{Table, TableComponent, presets};

/// Draws rows below headers.
pub(crate) fn table<const N: usize>(
    headers: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_FULL_CONDENSED);
    table
        .set_style(TableComponent::HeaderLines, '-')
        .set_style(TableComponent::MiddleHeaderIntersections, '+');
    table.set_header(headers).add_rows(rows);
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_box_around_it() {
        let drawn = table(["Server Id", "Address"], [["1".into(), "127.0.0.1:6570".into()]]);
        let expected = "\
+-----------+----------------+
| Server Id | Address        |
+-----------+----------------+
| 1         | 127.0.0.1:6570 |
+-----------+----------------+";
        assert_eq!(drawn, expected);
    }
}
