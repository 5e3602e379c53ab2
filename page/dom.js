// What several lists are built with.

/** A new element of a class. */
export function make(tag, className) {
  const made = document.createElement(tag);
  made.className = className;
  return made;
}
