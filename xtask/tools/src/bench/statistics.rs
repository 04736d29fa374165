//! Median, spread and slope of measured values.
//!
//! The median is used because a shared machine has outliers upwards.

/// The median of some values, with their range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Number of values.
    pub count: usize,
    /// Least value.
    pub least: f64,
    /// The 10th percentile.
    pub low: f64,
    /// The median.
    pub median: f64,
    /// The 90th percentile.
    pub high: f64,
    /// Greatest value.
    pub greatest: f64,
}

/// Returns the spread of `values`, or `None` for no values.
pub fn spread(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let (&least, &greatest) = (values.first()?, values.last()?);
    let at = |part: f64| {
        let place = part * (values.len() - 1) as f64;
        let (below, above) = (values[place.floor() as usize], values[place.ceil() as usize]);
        below + (above - below) * place.fract()
    };
    Some(Spread {
        count: values.len(),
        least,
        low: at(0.1),
        median: at(0.5),
        high: at(0.9),
        greatest,
    })
}

/// A straight line fitted to points by least squares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    /// Growth of y per unit of x.
    pub slope: f64,
    /// Fraction of y's variation that the line explains: 1 if all points are on the line.
    pub r2: f64,
}

/// Fits a line to `points`; `None` unless they have at least two different x.
pub fn line(points: &[(f64, f64)]) -> Option<Line> {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x_mean, y_mean) = (mean(|point| point.0), mean(|point| point.1));
    let sum = |of: &dyn Fn(f64, f64) -> f64| {
        points.iter().map(|(x, y)| of(x - x_mean, y - y_mean)).sum::<f64>()
    };
    let (xx, xy, yy) = (sum(&|x, _| x * x), sum(&|x, y| x * y), sum(&|_, y| y * y));
    // If y does not vary, the level line explains all of it.
    let r2 = if yy == 0.0 { 1.0 } else { xy * xy / (xx * yy) };
    (xx > 0.0).then(|| Line { slope: xy / xx, r2 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_does_not_follow_an_outlier() {
        let of = spread([3.0, 1.0, 2.0, 1000.0, 4.0]).unwrap();
        assert_eq!((of.count, of.least, of.median, of.greatest), (5, 1.0, 3.0, 1000.0));
        assert_eq!(spread([1.0, 2.0]).unwrap().median, 1.5);
        assert_eq!(spread([7.0]).unwrap().high, 7.0);
        assert_eq!(spread([]), None);
    }

    #[test]
    fn percentiles_are_between_their_neighbours() {
        let of = spread((0..=100).map(f64::from)).unwrap();
        assert_eq!((of.low, of.high), (10.0, 90.0));
    }

    #[test]
    fn points_on_a_line_give_the_line() {
        let points = [0.0, 8.0, 32.0, 128.0].map(|x| (x, 5.0 + 3.0 * x));
        let Line { slope, r2 } = line(&points).unwrap();
        assert!((slope - 3.0).abs() < 1e-9 && (r2 - 1.0).abs() < 1e-9, "{slope} {r2}");
    }

    #[test]
    fn points_off_the_line_show_in_r2() {
        let line = line(&[(0.0, 0.0), (1.0, 1.0), (2.0, 0.0), (3.0, 1.0)]).unwrap();
        assert!((line.slope - 0.2).abs() < 1e-9 && (line.r2 - 0.2).abs() < 1e-9, "{line:?}");
    }

    #[test]
    fn one_x_is_no_line() {
        assert_eq!(line(&[(1.0, 1.0), (1.0, 2.0)]), None);
        assert_eq!(line(&[]), None);
    }
}
