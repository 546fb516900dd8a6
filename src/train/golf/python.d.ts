/** Python scripts that the executable carries as text. */
declare module "*.py" {
  const text: string;
  export default text;
}
