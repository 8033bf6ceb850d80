// Numbers in words, as the notebooks' widgets write them.

export const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)}%`;
export const thousands = (number) => Math.round(number).toLocaleString("en-US");
export const short = (number) => String(Number(number.toPrecision(2)));
export const largest = ({ data }) => data.reduce((a, b) => Math.max(a, b), -Infinity);
export const mean = ({ data }) => data.reduce((a, b) => a + b, 0) / data.length;
