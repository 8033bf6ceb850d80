// TeX on standard input, a JSON list of [tex, display]; SVG (with MathML for screen readers) and style on standard output
const mathjax = require(process.argv[2]);
const options = {
  loader: { load: ["input/tex", "output/svg", "a11y/assistive-mml"] },
  svg: { fontCache: "local" },
  startup: { typeset: false },
};
mathjax.init(options).then((MathJax) => {
  const { adaptor } = MathJax.startup;
  const formulas = JSON.parse(require("fs").readFileSync(0, "utf8"));
  const svg = formulas.map(([tex, display]) => adaptor.outerHTML(MathJax.tex2svg(tex, { display })));
  process.stdout.write(JSON.stringify({ svg, style: adaptor.textContent(MathJax.svgStylesheet()) }));
});
