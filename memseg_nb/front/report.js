document.documentElement.classList.add('js');
const photos = [...document.querySelectorAll('.photo')];
const buttons = [...document.querySelectorAll('button')];
const status = document.querySelector('[role=status]'), all = document.querySelector('#all');
function fade(slider) {
  const over = slider.closest('.photo').querySelectorAll('img')[1];
  over.style.opacity = slider.value / 100;
}
function choose(button) {
  buttons.forEach(one => one.setAttribute('aria-pressed', one === button));
  photos.forEach(one => one.hidden = !one.matches(button.value));
  status.textContent = photos.filter(one => !one.hidden).length + ' of ' + photos.length + ' shown';
}
buttons.forEach(one => one.addEventListener('click', () => choose(one)));
const sliders = [...document.querySelectorAll('.photo input')];
sliders.forEach(one => { fade(one); one.addEventListener('input', () => fade(one)); });
all.addEventListener('input', () => sliders.forEach(one => { one.value = all.value; fade(one); }));
if (buttons.length) choose(buttons[0]);
