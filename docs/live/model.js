// What a notebook's front end asks of a kernel, answered in the page: board.js and canvas.js run unchanged on it.

export class Model {
  constructor(state, heard = () => {}) {
    this.state = { ...state };
    this.heard = heard; // gets what the front end sends
    this.listeners = new Map();
  }

  get(name) { return this.state[name]; }

  set(name, value) {
    if (this.state[name] === value) return;
    this.state[name] = value;
    this.fire(`change:${name}`, value);
  }

  save_changes() {} // nobody else has a copy

  on(event, listener) { this.listeners.set(event, [...(this.listeners.get(event) ?? []), listener]); }

  off(event, listener) {
    this.listeners.set(event, (this.listeners.get(event) ?? []).filter((one) => one !== listener));
  }

  send(message) { this.heard(message); }

  fire(event, ...words) { for (const listener of this.listeners.get(event) ?? []) listener(...words); }
}
