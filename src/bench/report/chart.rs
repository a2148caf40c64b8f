//! Pictures as SVG: latencies over the share of operations, and rates as bars.

use std::fmt::Write as _;

use super::markup::Escaped;
use crate::bench::{CaseResult, CurvePoint, duration_text, rate_text, ratio_text};

type Written = Result<(), std::fmt::Error>;

/// The drawing area of latencies, in the units of its view box.
const LEFT: f64 = 66.0;
const RIGHT: f64 = 530.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 266.0;
/// Curves for which there are colours; further ones are not drawn.
const CURVES_MAX: usize = 3;
/// Room for a label of the vertical axis; those that come closer to the one before are left out.
const LABEL_HEIGHT: f64 = 16.0;

/// Where an interval and a share are drawn: both axes are logarithmic, the horizontal one in the
/// share of operations that took longer.
struct Scale {
    decades: f64,
    low: f64,
    high: f64,
}

impl Scale {
    /// A scale on which all points of `curves` lie; `None` without any.
    fn of(curves: &[(&str, &[CurvePoint])]) -> Option<Self> {
        let points = || curves.iter().flat_map(|(_, points)| points.iter());
        let logarithms = || points().map(|point| (point.interval_ns.max(1) as f64).log10());
        let low = logarithms().min_by(f64::total_cmp)?;
        let high = logarithms().max_by(f64::total_cmp)?;
        let decades = points().map(|point| decades_of(point.share)).max_by(f64::total_cmp)?;
        // Some air on either side, also where all points are the same.
        Some(Self { decades: decades.max(1.0), low: low - 0.08, high: high + 0.08 })
    }

    fn x(&self, decades: f64) -> f64 {
        LEFT + (RIGHT - LEFT) * decades / self.decades
    }

    fn y(&self, interval_ns: f64) -> f64 {
        let part = (interval_ns.log10() - self.low) / (self.high - self.low);
        BOTTOM - (BOTTOM - TOP) * part
    }
}

/// 0 for none, 1 for 90 %, 2 for 99 %.
fn decades_of(share: f64) -> f64 {
    -(1.0 - share).log10()
}

/// Draws each named curve; the first is the subject's.
pub(super) fn write_latencies(page: &mut String, curves: &[(&str, &[CurvePoint])]) -> Written {
    let curves = &curves[..curves.len().min(CURVES_MAX)];
    let Some(scale) = Scale::of(curves) else {
        page.push_str("<p>no curve was recorded</p>\n");
        return Ok(());
    };
    let names: Vec<_> = curves.iter().map(|(name, _)| *name).collect();
    page.push_str("<svg viewBox=\"0 0 560 300\" role=\"img\" aria-label=\"");
    writeln!(page, "latency by share of round trips: {}\">", Escaped(&names.join(", ")))?;
    write_axes(page, &scale)?;
    for (index, (_, points)) in curves.iter().enumerate() {
        write!(page, "<polyline class=\"curve c{index}\" points=\"")?;
        for point in *points {
            let (x, y) =
                (scale.x(decades_of(point.share)), scale.y(point.interval_ns.max(1) as f64));
            write!(page, "{x:.1},{y:.1} ")?;
        }
        page.push_str("\"/>\n");
    }
    write_legend(page, &names)?;
    page.push_str("</svg>\n");
    Ok(())
}

fn write_legend(page: &mut String, names: &[&str]) -> Written {
    let mut x = LEFT;
    for (index, name) in names.iter().enumerate() {
        let end = x + 26.0;
        writeln!(page, "<path class=\"curve c{index}\" d=\"M{x:.0} 12H{end:.0}\"/>")?;
        writeln!(
            page,
            "<text class=\"name\" x=\"{:.0}\" y=\"16\">{}</text>",
            end + 6.0,
            Escaped(name)
        )?;
        // Letters of 12 units are about 6.6 wide.
        x = end + 24.0 + 6.6 * name.chars().count() as f64;
    }
    Ok(())
}

fn write_axes(page: &mut String, scale: &Scale) -> Written {
    for (decade, label) in
        ["0 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %", "99.9999 %"].iter().enumerate()
    {
        let decade = decade as f64;
        if decade > scale.decades + 1e-6 {
            break;
        }
        let x = scale.x(decade);
        writeln!(page, "<path class=\"axis\" d=\"M{x:.1} {TOP}V{BOTTOM}\"/>")?;
        let y = BOTTOM + 18.0;
        writeln!(page, "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{label}</text>")?;
    }
    let mut label_above = f64::INFINITY;
    for interval_ns in ticks(scale.low, scale.high) {
        let y = scale.y(interval_ns as f64);
        writeln!(page, "<path class=\"axis\" d=\"M{LEFT} {y:.1}H{RIGHT}\"/>")?;
        if label_above - y < LABEL_HEIGHT {
            continue;
        }
        label_above = y;
        let (x, y, label) = (LEFT - 8.0, y + 4.0, tick_text(interval_ns));
        writeln!(page, "<text x=\"{x}\" y=\"{y:.1}\" text-anchor=\"end\">{label}</text>")?;
    }
    Ok(())
}

/// 1, 2 and 5 times each power of ten between two logarithms, in nanoseconds, rising.
fn ticks(low: f64, high: f64) -> Vec<u64> {
    let powers = (0..=12).map(|exponent| 10_u64.pow(exponent));
    let steps = powers.flat_map(|power| [power, 2 * power, 5 * power]);
    steps.filter(|step| (low..=high).contains(&(*step as f64).log10())).collect()
}

/// A round interval without the decimals that it does not need.
fn tick_text(interval_ns: u64) -> String {
    let text = duration_text(interval_ns);
    match text.split_once(' ') {
        Some((number, unit)) if number.contains('.') => {
            format!("{} {unit}", number.trim_end_matches('0').trim_end_matches('.'))
        }
        _ => text,
    }
}

/// Height of one case in the bars, and where the bars begin and end.
const ROW: f64 = 46.0;
const BAR_LEFT: f64 = 210.0;
const BAR_RIGHT: f64 = 860.0;

/// Draws the rate of each result and below it that of its first limit.
pub(super) fn write_bars(page: &mut String, results: &[&CaseResult]) -> Written {
    let rates = results.iter().flat_map(|result| {
        let limit = result.limits.first().map(|limit| limit.figures.msgs_per_s);
        [Some(result.figures.msgs_per_s), limit].into_iter().flatten()
    });
    let highest = rates.max().unwrap_or_default().max(1) as f64;
    let height = ROW * results.len() as f64 + 8.0;
    writeln!(
        page,
        "<svg viewBox=\"0 0 1000 {height:.0}\" role=\"img\" aria-label=\"messages a second\">"
    )?;
    for (index, result) in results.iter().enumerate() {
        let top = ROW * index as f64 + 6.0;
        let width = |rate: u64| (BAR_RIGHT - BAR_LEFT) * rate as f64 / highest;
        write_row_name(page, result, top)?;
        let rate = result.figures.msgs_per_s;
        write_bar(page, 0, top, width(rate), &rate_text(rate))?;
        if let Some(limit) = result.limits.first() {
            let rate = limit.figures.msgs_per_s;
            let label = format!(
                "{} · {}, time {}",
                rate_text(rate),
                limit.limit,
                ratio_text(limit.ratio_time)
            );
            write_bar(page, 1, top + 17.0, width(rate), &label)?;
        }
    }
    page.push_str("</svg>\n");
    Ok(())
}

fn write_row_name(page: &mut String, result: &CaseResult, top: f64) -> Written {
    let of_open = if result.open > result.connections {
        format!(" of {}", result.open)
    } else {
        String::new()
    };
    let y = top + 12.0;
    writeln!(
        page,
        "<text class=\"name\" x=\"0\" y=\"{y:.1}\">{} · {} B</text>",
        Escaped(&result.case),
        result.size
    )?;
    let y = y + 16.0;
    let plural = if result.connections == 1 { "" } else { "s" };
    writeln!(
        page,
        "<text x=\"0\" y=\"{y:.1}\">{}{of_open} connection{plural} × {}</text>",
        result.connections, result.window
    )
}

fn write_bar(page: &mut String, class: u32, top: f64, width: f64, label: &str) -> Written {
    writeln!(
        page,
        "<rect class=\"f{class}\" x=\"{BAR_LEFT}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"14\" \
         rx=\"2\"/>"
    )?;
    // Beside the bar, or inside of the picture where the bar is long.
    let (x, y) = (BAR_LEFT + width + 8.0, top + 11.5);
    if x < BAR_LEFT + 560.0 {
        writeln!(page, "<text x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", Escaped(label))
    } else {
        writeln!(
            page,
            "<text class=\"on\" x=\"{:.1}\" y=\"{y:.1}\" text-anchor=\"end\">{}</text>",
            BAR_LEFT + width - 8.0,
            Escaped(label)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(of: &[(f64, u64)]) -> Vec<CurvePoint> {
        of.iter().map(|&(share, interval_ns)| CurvePoint { share, interval_ns }).collect()
    }

    #[test]
    fn the_horizontal_axis_is_logarithmic_in_what_took_longer() {
        let curve = points(&[(0.0, 100), (0.9, 100), (0.99, 10_000)]);
        let scale = Scale::of(&[("a", &curve)]).unwrap();
        let x = |share| scale.x(decades_of(share));
        assert!((x(0.0) - LEFT).abs() < 0.01 && (x(0.99) - RIGHT).abs() < 0.01);
        assert!((x(0.9) - f64::midpoint(LEFT, RIGHT)).abs() < 0.01);
        // And the vertical one in time, upwards.
        let middle = f64::midpoint(scale.y(100.0), scale.y(10_000.0));
        assert!(scale.y(100.0) > scale.y(10_000.0));
        assert!((scale.y(1_000.0) - middle).abs() < 0.01);
    }

    #[test]
    fn curves_of_equal_points_and_of_zeros_stay_inside() {
        for interval_ns in [0, 1, 500] {
            let curve = points(&[(0.0, interval_ns)]);
            let scale = Scale::of(&[("a", &curve)]).unwrap();
            let y = scale.y(interval_ns.max(1) as f64);
            assert!((TOP..=BOTTOM).contains(&y), "{y}");
        }
        assert!(Scale::of(&[("a", &[])]).is_none());
    }

    #[test]
    fn ticks_are_round_and_read_well() {
        assert_eq!(ticks(1.95, 3.1), [100, 200, 500, 1_000]);
        let texts: Vec<_> = [100, 5_000, 20_000, 1_000_000].map(tick_text).into();
        assert_eq!(texts, ["100 ns", "5 µs", "20 µs", "1 ms"]);
    }
}
